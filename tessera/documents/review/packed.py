"""The report's page without its data: style and script packed into one file, under a policy that names their digests.

The scripts in `web/` are modules that a server can serve as they are. Here they are joined into one, in an order in
which each follows what it imports, so that a file opened from a disk needs nothing beside itself.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

WEB = Path(__file__).parent / "web"
STYLES = ("colours.css", "review.css")
MODULES = ("dom.js", "kinds.js", "corrections.js", "diagram.js", "viewer.js", "fields.js", "review.js", "report.js")
IMPORT = re.compile(r'^import [^;]*? from "\.[./a-z]*/[a-z]+\.js";\n', re.MULTILINE)


@dataclass(frozen=True)
class Bundle:
    """The files of a page, in the order in which they are joined."""

    styles: tuple[Path, ...]
    modules: tuple[Path, ...]


REVIEW = Bundle(tuple(WEB / name for name in STYLES), tuple(WEB / name for name in MODULES))


@cache
def style(bundle: Bundle = REVIEW) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in bundle.styles)


@cache
def script(bundle: Bundle = REVIEW) -> str:
    return "\n".join(IMPORT.sub("", path.read_text(encoding="utf-8")) for path in bundle.modules)


def policy(bundle: Bundle = REVIEW) -> str:
    """Return the content policy: this style, this script, images from within the file, and nothing else."""
    return (
        f"default-src 'none'; script-src {_source(script(bundle))}; style-src {_source(style(bundle))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def head(title: str, bundle: Bundle = REVIEW) -> str:
    """Return the file's beginning, up to its data."""
    shown = escape(_encodable(title))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(bundle))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{shown}</title>\n<style>{style(bundle)}</style>\n</head>\n<body>\n"
        f'<main id="review"><h1>{shown}</h1><noscript><p>This report needs JavaScript; all of it is in this file.'
        "</p></noscript></main>\n"
    )


def tail(bundle: Bundle = REVIEW) -> str:
    return f'<script type="module">{script(bundle)}</script>\n</body>\n</html>\n'


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which file names may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
