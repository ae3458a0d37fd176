"""A page's text layer as Markdown: larger type is a heading, lines with the same cells are a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tessera.documents.marks import Paragraphs, literal, literal_line
from tessera.documents.page import Box, Page, Word

LEAST_WORDS, MAX_BROKEN = 5, 0.03  # of a text layer that is used; the share of characters that stand for none
CELL_GAP, PARAGRAPH_GAP = 1.2, 0.9  # in line heights, between two cells of a row, and two paragraphs
HEADINGS = ((1.7, "# "), (1.4, "## "), (1.2, "### "))  # by the size of type against the page's usual one
HEADING_WORDS, TABLE_ROWS = 14, 3
MAX_COLUMNS, MAX_CELL = 20, 60  # of headings that are told on; characters


def has_good_text(page: Page) -> bool:
    """Return whether a page's text layer can stand for the page: enough words, made of real characters.

    Fonts without a table of their characters give private or replacement signs, which only the image can tell.
    """
    text = "".join(word.text for word in page.words)
    if len(page.words) < LEAST_WORDS or not text:
        return False
    broken = sum(unicodedata.category(sign) in ("Co", "Cn", "Cc", "Cs") or sign == "\ufffd" for sign in text)
    readable = sum(sign.isalnum() for sign in text)
    return broken <= MAX_BROKEN * len(text) and readable >= 0.4 * len(text)


def table_headings(page: Page) -> tuple[str, ...]:
    """The headings of the last table in a page's text layer that has any: a row above others, without numbers."""
    for is_table, run in reversed(_runs(_lines(page)) if page.words else []):
        cells = run[0].cells
        if is_table and len(cells) <= MAX_COLUMNS and not any(sign.isdigit() for sign in run[0].text):
            return tuple(cell[:MAX_CELL] for cell in cells)
    return ()


@dataclass(frozen=True)
class TextBlock:
    """A part of a page as Markdown, and where it is."""

    kind: Literal["title", "text", "table"]
    text: str
    box: Box


@dataclass(frozen=True)
class _Line:
    cells: tuple[str, ...]
    top: float  # in the page's units
    bottom: float
    height: float
    left: float  # shares of the page's width
    right: float

    @property
    def text(self) -> str:
        return " ".join(self.cells)


def text_to_markdown(page: Page) -> str:
    """Write the text layer in its own order."""
    return "\n\n".join(block.text for block in text_blocks(page))


def text_blocks(page: Page) -> list[TextBlock]:
    """Divide the text layer into headings, paragraphs and tables, in its own order."""
    lines = _lines(page)
    if not lines:
        return []
    usual = _middle(sorted((line.height, len(line.text)) for line in lines))
    blocks: list[TextBlock] = []
    paragraph: list[_Line] = []
    paragraphs = Paragraphs()

    def end_paragraph() -> None:
        if paragraph:
            shown = paragraphs.literal([each.text for each in paragraph])
            blocks.append(TextBlock("text", shown, _around(page, paragraph)))
            paragraph.clear()

    for is_table, run in _runs(lines):
        for line in run if not is_table else ():
            heading = next((mark for size, mark in HEADINGS if line.height >= size * usual), "")
            is_heading = bool(heading) and len(line.text.split()) <= HEADING_WORDS
            far = bool(paragraph) and not -2 < (line.top - paragraph[-1].bottom) / usual < PARAGRAPH_GAP
            if far or is_heading:
                end_paragraph()
            if is_heading:
                paragraphs.end_list()
                blocks.append(TextBlock("title", heading + literal_line(line.text), _around(page, [line])))
            else:
                paragraph.append(line)
        if is_table:
            end_paragraph()
            paragraphs.end_list()
            blocks.append(TextBlock("table", _table(run), _around(page, run)))
    end_paragraph()
    return blocks


def _around(page: Page, lines: Sequence[_Line]) -> Box:
    height = page.size[1]
    return Box(
        page.number,
        min(line.left for line in lines),
        min(line.top for line in lines) / height,
        max(line.right for line in lines),
        max(line.bottom for line in lines) / height,
    )


def _lines(page: Page) -> list[_Line]:
    width, height = page.size
    rows: list[list[Word]] = []
    for word in page.words:
        middle = (word.box.top + word.box.bottom) / 2
        if rows and rows[-1][-1].box.top < middle < rows[-1][-1].box.bottom:
            rows[-1].append(word)
        else:
            rows.append([word])
    return [_line(row, width, height) for row in rows]


def _line(row: Sequence[Word], width: float, height: float) -> _Line:
    tallest = max((word.box.bottom - word.box.top) * height for word in row)
    cells: list[list[str]] = []
    for index, word in enumerate(row):
        gap = (word.box.left - row[index - 1].box.right) * width if index else 0.0
        if not cells or abs(gap) > CELL_GAP * tallest:
            cells.append([])
        cells[-1].append(word.text)
    top, bottom = min(word.box.top for word in row) * height, max(word.box.bottom for word in row) * height
    left, right = min(word.box.left for word in row), max(word.box.right for word in row)
    return _Line(tuple(" ".join(cell) for cell in cells), top, bottom, tallest, left, right)


def _runs(lines: Sequence[_Line]) -> list[tuple[bool, list[_Line]]]:
    """Divide lines into runs of equally many cells; long ones with two or more are tables."""
    runs = [list(run) for _, run in groupby(lines, key=lambda line: len(line.cells))]
    return [(len(run[0].cells) >= 2 and len(run) >= TABLE_ROWS, run) for run in runs]


def _table(lines: Sequence[_Line]) -> str:
    rows = [f"| {' | '.join(literal(cell).replace('|', chr(92) + '|') for cell in line.cells)} |" for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0].cells), *rows[1:]])


def _middle(sizes: Sequence[tuple[float, int]]) -> float:
    """The size of type that half of the characters do not exceed."""
    left = sum(count for _, count in sizes) / 2
    for size, count in sizes:
        left -= count
        if left <= 0:
            return size
    return sizes[-1][0]
