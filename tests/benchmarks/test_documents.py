"""The comparison with regular expressions: what is right, claimed and printed is counted apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.document_peers import joined, read
from benchmarks.documents import Score, by_expressions, fields_in
from benchmarks.papers import Sheet
from tessera.nano.measure import web_papers

RECEIPT = Sheet(
    Path("a.png"), "receipt",
    {"vendor": "Corner Bakery", "date": "17.09.2024", "subtotal": "£15.50", "tax": "£3.10", "total": "£18.60",
     "cash": None},
    ({"description": "Sourdough", "amount": "£7.80"}, {"description": "Tea", "amount": "£7.70"}), {},
)  # fmt: skip
TEXT = "Corner Bakery\n7 Station Road\n\nDate: 17.09.2024\nSourdough £7.80\nTea £7.70\nSubtotal £15.50\nVAT £3.10\nTotal due £18.60\n"  # noqa: E501


def test_expressions_read_a_clean_receipt_whole() -> None:
    found, items = fields_in(TEXT, RECEIPT)
    score = Score()
    score.add(RECEIPT, found, items)
    assert (score.right, score.claimed, score.printed) == (5, 5, 5)
    assert score.items == [2, 2, 2]
    assert score.f1 == score.group == 1.0


def test_a_wrong_a_missing_and_an_invented_value_count_differently() -> None:
    score = Score()
    score.add(RECEIPT, {"vendor": "Corner Bakery", "date": "18.09.2024", "cash": "5.00"}, [{"description": "Tea"}])
    assert (score.right, score.claimed, score.printed) == (1, 3, 5)
    assert score.f1 == pytest.approx(2 / 8)
    assert score.items == [0, 1, 2]


def test_one_line_item_is_not_counted_twice() -> None:
    score = Score()
    tea = {"description": "Tea", "amount": 7.7}
    score.add(RECEIPT, {}, [tea, tea])
    assert score.items == [1, 2, 2]
    assert score.group == pytest.approx(2 / 4)


def test_pieces_beside_each_other_are_one_line_from_left_to_right() -> None:
    boxes = [
        [[left, top], [left + 40, top], [left + 40, top + 10], [left, top + 10]]
        for left, top in ((300, 52), (10, 50), (10, 20), (10, 58))
    ]
    assert joined(boxes, ["18.60", "Total", "Corner Bakery", "Thanks"]) == "Corner Bakery\nTotal 18.60\nThanks"


def test_a_reader_that_cannot_run_is_told_with_its_reason() -> None:
    reading = read("docling", sys.executable, [Path("a.png")])
    assert "docling" in reading.error
    score = by_expressions([RECEIPT], reading)
    assert (score.error, score.printed) == (reading.error, 0)


def test_papers_are_printed_into_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser takes addresses of whole paths, and has a working directory of its own mind."""
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def run(command: list[str], **options: object) -> None:
        asked.extend(command)
        Path("papers.pdf").touch()

    monkeypatch.setattr(web_papers.shutil, "which", lambda name: name)
    monkeypatch.setattr(web_papers.subprocess, "run", run)
    web_papers.print_web_page(Path("papers.html"), Path("papers.pdf"))
    assert asked[-2:] == [f"--print-to-pdf={tmp_path}/papers.pdf", f"file://{tmp_path}/papers.html"]
