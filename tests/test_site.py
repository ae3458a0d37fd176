"""The documentation builds into a site without a broken link, and every example of it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "tessera" / "nano" / "demo"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "draw_demo_pictures")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "client"])  # tests/server/test_client.py
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    for image in DEMO.glob("*.png"):
        shutil.copy(image, tmp_path)
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # this checkout, whichever is installed
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_python_page_shows_every_example() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    texts = {name: (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8") for name in EXAMPLES}
    assert [name for name, text in texts.items() if f"```python\n{text}```\n" not in page] == []


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LLM" in (tmp_path / "api" / "models.html").read_text(encoding="utf-8")
