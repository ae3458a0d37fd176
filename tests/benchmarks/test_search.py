"""The archive of drawn pages: every question's page is found first, and a page costs no more bytes than is told."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import search_pages
from benchmarks.search import archive, ask_synthetic, synthetic
from benchmarks.search_pages import as_drawn, drawn_pages


@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_questions_page_is_found_first(count: int, tmp_path: Path) -> None:
    told = archive(tmp_path, count)
    size = int(re.search(r"([\d,]+) bytes a page", told[0])[1].replace(",", ""))  # type: ignore[index]
    assert size < 30_000 if count < 1000 else size < 8_000  # a small index is mostly empty tables
    rows = {cells[1]: cells for line in told[4:] if (cells := [cell.strip() for cell in line.split("|")])}
    assert rows.keys() == {"number", "words", "misspelt", "part of a number", "all"}
    assert {cells[3] for cells in rows.values()} == {"1.000"}  # R@1


@pytest.mark.slow
def test_synthetic_pages_are_written_and_asked(tmp_path: Path) -> None:
    told = synthetic(tmp_path, 1500)
    assert told[0].startswith("1,500 synthetic pages")
    assert "| number | 100 | 1.000 | 1.000 |" in told[2]
    assert ask_synthetic(tmp_path, 1500)[2].startswith("| number | 100 | 1.000 | 1.000 |")


def test_a_page_is_known_by_its_lines() -> None:
    pages = list(drawn_pages(20, 12, first=999_990))
    assert [as_drawn(page.lines) for page in pages] == pages


def test_drawing_goes_on_when_all_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million pages are more than there are vendors, cities and things to put together."""
    for name, few in (("FIRST", 2), ("SECOND", 2), ("FORMS", 1), ("CITIES", 1)):
        monkeypatch.setattr(search_pages, name, getattr(search_pages, name)[:few])
    space = 2 * 2 * 1 * 1 * len(search_pages.THINGS)
    monkeypatch.setattr(search_pages, "SPACE", space)
    words = [page.words for page in islice(drawn_pages(2 * space), 2 * space)]
    once = int(0.9 * space)
    assert len(set(words[:once])) == once
    assert len(words) == 2 * space
