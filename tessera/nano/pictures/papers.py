"""Draws receipts, invoices, forms and tables on our own canvas, with questions about them.

What a paper says, where it prints that, and what is asked about it are decided apart (`papers_sale`,
`papers_form`, `papers_table`), so that other renderers print the same papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tessera.nano.pictures import (
    papers_form,
    papers_sale,
    papers_sale_layouts,
    papers_sale_questions,
    papers_table,
)
from tessera.nano.pictures.canvas import Brush
from tessera.nano.pictures.page import Page, Question
from tessera.nano.pictures.papers_asking import TRANSCRIBE, Places, asked, transcript
from tessera.nano.pictures.papers_blocks import Block, Look, Side, Stack, draw_look
from tessera.nano.pictures.papers_canvas import Sheet
from tessera.nano.pictures.papers_sale import Room

SMALLEST, LARGEST = 9.0, 24.0  # type, in pixels
TRIES = 18
LONGEST_TRANSCRIPT = 320  # characters


@dataclass(frozen=True)
class Paper:
    """Data, their layout, and who asks about them."""

    kind: str
    data: Any
    block: Block
    ask: Callable[[Any, Any, Places, int], list[Question]]


def compose(brush: Brush, kind: str, room: Room) -> Paper:
    """A paper of one kind with about as much on it as there is room for."""
    random, unseen = brush.random, brush.style.unseen_layouts
    if kind == "form":
        form = papers_form.invent(random, room)
        return Paper(kind, form, papers_form.compose(random, form, room, unseen), papers_form.ask)
    if kind == "table":
        table = papers_table.invent(random, room)
        return Paper(kind, table, papers_table.compose(random, table, room, unseen), papers_table.ask)
    sale = papers_sale.invent(random, kind, room)
    block = papers_sale_layouts.compose(random, sale, room, unseen)
    return Paper(kind, sale, block, papers_sale_questions.ask)


def draw_receipt(brush: Brush) -> Page:
    return _draw(brush, "receipt")


def draw_invoice(brush: Brush) -> Page:
    return _draw(brush, "invoice")


def draw_form(brush: Brush) -> Page:
    return _draw(brush, "form")


def draw_table(brush: Brush) -> Page:
    return _draw(brush, "table")


def _draw(brush: Brush, kind: str) -> Page:
    paper, sheet = fitted(brush, kind)
    canvas = sheet.print()
    return canvas.page(questions_about(brush, paper, sheet.places, canvas.glyphs))


def fitted(brush: Brush, kind: str) -> tuple[Paper, Sheet]:
    """A paper, set so that it does not exceed the brush's measures: with less to say, then in smaller type."""
    size = brush.size(SMALLEST, LARGEST)
    share = brush.random.uniform(0.6, 1.05)
    for number in range(TRIES):
        look = draw_look(brush, size)
        paper = compose(brush, kind, room_of(brush, look, share))
        sheet = Sheet(paper.block, look)
        width, height = sheet.size
        if width <= brush.max_width and height <= brush.max_height:
            break
        share *= 0.86
        if number % 2:
            size = max(round(SMALLEST), round(size * 0.85))
    return paper, sheet


def room_of(brush: Brush, look: Look, share: float) -> Room:
    columns = brush.max_width / (look.size * 0.56)
    lines = brush.max_height / (look.size * look.leading)
    return Room(max(12, round(columns * share * 0.9)), max(4, round(lines * share)))


def questions_about(brush: Brush, paper: Paper, places: Places, glyphs: Any) -> list[Question]:
    random = brush.random
    questions = paper.ask(random, paper.data, places, random.randint(3, 8))
    if paper.kind != "table" and random.random() < 0.25 and not _has_columns(paper.block):
        text = transcript(places, glyphs)
        if len(text.text) <= LONGEST_TRANSCRIPT:
            questions.append(Question(asked(random, TRANSCRIBE, thing=paper.kind), text, "transcribe"))
    return [_with_clue(question) for question in questions]


def _with_clue(question: Question) -> Question:
    """What is printed as it is answered is looked for at once."""
    if question.clue is not None or not any(glyph is not None for glyph in question.answer.glyphs):
        return question
    return replace(question, clue=question.answer)


def _has_columns(block: Block) -> bool:
    """Whether blocks stand side by side, so that lines have no one order."""
    return isinstance(block, Side) or (isinstance(block, Stack) and any(map(_has_columns, block.blocks)))
