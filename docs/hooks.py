"""Puts the pages of the repository's root into the site, and makes their links work there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("ARCHITECTURE.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "MODEL_CARD.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to other pages at the site's copies; a link to a file that is no page becomes its name."""

    def replaced(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path) or not path:
            return match[0]
        outside = path.removeprefix("../").removeprefix("docs/")
        if image or outside in ROOT_PAGES or (ROOT / "docs" / outside).is_file():
            return f"{image}[{text}]({outside}{'#' * bool(anchor)}{anchor})"
        if outside == "README.md":
            return f"[{text}](index.md)"
        return text

    return markdown if page.file.src_uri.startswith("api/") else LINK.sub(replaced, markdown)
