"""The documentation builds into a site without a broken link, and every example of it runs."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.documents.tables import csv_cell
from tests import forks

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "tessera" / "nano" / "demo"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "draw_demo_pictures")
AGENTS = ("agent", "agent_langchain")  # long ones, which docs/documents.md names instead of showing


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ("client", *AGENTS)])
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    """`client` runs in tests/server/test_client.py, beside a server."""
    for image in DEMO.glob("*.png"):
        shutil.copy(image, tmp_path)
    done = run_example(name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_agent_writes_a_row_for_each_receipt(tmp_path: Path) -> None:
    for name in ("receipt.png", "receipt2.png"):
        shutil.copy(DEMO / "receipt.png", tmp_path / name)
    done = run_example("agent", tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "receipts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["receipt.png", "receipt2.png"]
    assert all(set(row) == {"file", "vendor", "date", "total"} for row in rows)
    assert rows[0]["total"] == rows[1]["total"]


@pytest.mark.parametrize("name", AGENTS)
def test_what_agents_read_never_becomes_a_formula(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert "csv_cell(value)" in text, "a receipt's text goes through the one guard of tables"
    assert csv_cell('=HYPERLINK("http://evil")').startswith("'=")


@pytest.mark.skipif(importlib.util.find_spec("langchain_openai") is not None, reason="LangChain is installed")
def test_the_langchain_agent_names_what_to_install(tmp_path: Path) -> None:
    done = run_example("agent_langchain", tmp_path)
    assert done.returncode == 1
    assert "is not installed; run: pip install langchain-openai" in done.stderr


def run_example(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return forks.run(ROOT / "examples" / f"{name}.py", folder=folder, timeout=200)


def test_the_python_page_shows_every_example() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    texts = {
        name: (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8") for name in EXAMPLES if name not in AGENTS
    }
    assert [name for name, text in texts.items() if f"```python\n{text}```\n" not in page] == []
    documents = (ROOT / "docs" / "documents.md").read_text(encoding="utf-8")
    assert all(f"examples/{name}.py" in documents for name in AGENTS)


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
