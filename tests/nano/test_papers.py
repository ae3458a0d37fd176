"""Papers: sums that add up, answers that are printed where they say, JSON that parses, layouts held out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faker", reason="the names on papers come from Faker")
pytest.importorskip("wordfreq", reason="the words on papers come from wordfreq")

from tessera.nano.pictures import papers, papers_form, papers_sale, papers_sale_layouts, papers_table
from tessera.nano.pictures.canvas import Brush, Style
from tessera.nano.pictures.fonts import built_in
from tessera.nano.pictures.page import Page, Question
from tessera.nano.pictures.papers_blocks import Blank, Block, Grid, Panel, Piece, Side, Stack
from tessera.nano.pictures.papers_sale import Room, Sale

SEEDS = range(60)
DRAWERS: dict[str, Callable[[Brush], Page]] = {
    "receipt": papers.draw_receipt,
    "invoice": papers.draw_invoice,
    "form": papers.draw_form,
    "table": papers.draw_table,
}
SKILLS = {"receipt", "invoice", "form", "table", "absent", "transcribe"}


def typst_drawer() -> Callable[[Brush], Page]:
    pytest.importorskip("typst", reason="the second renderer needs typst")
    pytest.importorskip("pypdfium2", reason="the PDF adapter needs pypdfium2")
    from tessera.nano.pictures.typst import draw_typst

    return draw_typst


def brush(seed: int, unseen: bool = False) -> Brush:
    room = Random(seed).choice(((256, 256), (450, 450), (320, 640)))
    return Brush(Random(seed), [built_in()], Style(unseen_layouts=unseen), *room)


@cache
def pages(kind: str, unseen: bool = False) -> list[tuple[Brush, Page]]:
    draw = typst_drawer() if kind == "typst" else DRAWERS[kind]
    brushes = [brush(seed, unseen) for seed in SEEDS]
    return [(each, draw(each)) for each in brushes]


def asked(kind: str) -> Iterator[tuple[Page, Question]]:
    for unseen in (False, True):
        for _, page in pages(kind, unseen):
            for question in page.questions:
                yield page, question


KINDS = pytest.mark.parametrize("kind", [*DRAWERS, "typst"])


@KINDS
def test_same_seed_same_page(kind: str) -> None:
    draw = typst_drawer() if kind == "typst" else DRAWERS[kind]
    for seed in range(6):
        one, other = draw(brush(seed)), draw(brush(seed))
        assert one.glyphs == other.glyphs
        assert one.questions == other.questions
        assert one.pictures[0].tobytes() == other.pictures[0].tobytes()


@KINDS
def test_pages_keep_to_their_room(kind: str) -> None:
    for unseen in (False, True):
        for brush_used, page in pages(kind, unseen):
            width, height = page.pictures[0].size
            assert width <= brush_used.max_width
            assert height <= brush_used.max_height
            assert all(0 <= glyph.x < width and 0 <= glyph.y < height for glyph in page.glyphs)
            assert all(8.99 <= glyph.size <= 40.01 for glyph in page.glyphs)


@KINDS
def test_characters_are_those_of_their_glyphs(kind: str) -> None:
    for page, question in asked(kind):
        for written in (question.question, question.answer, question.clue):
            if written is None:
                continue
            assert len(written.text) == len(written.glyphs)
            for char, index in zip(written.text, written.glyphs, strict=True):
                assert index is None or page.glyphs[index].char.lower() == char.lower()


@KINDS
def test_ink_lies_under_every_letter(kind: str) -> None:
    for _, page in pages(kind)[:20]:
        pixels = np.asarray(page.pictures[0].convert("L")).astype(int)
        for glyph in page.glyphs:
            if glyph.char.isalnum():
                x, y, reach = round(glyph.x), round(glyph.y), max(3, round(glyph.size * 0.45))
                part = pixels[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
                assert part.max() - part.min() > 20, (glyph, kind)


@KINDS
def test_questions_are_several_and_of_known_skills(kind: str) -> None:
    for unseen in (False, True):
        for _, page in pages(kind, unseen):
            assert 1 <= len(page.questions) <= 9
            assert {question.skill for question in page.questions} <= SKILLS
            assert all(question.answer.text for question in page.questions)
    assert sum(len(page.questions) for _, page in pages(kind)) / len(SEEDS) > 3.5


@KINDS
def test_absent_and_not_shown_are_one(kind: str) -> None:
    for _, question in asked(kind):
        if question.skill == "absent" and kind != "typst":
            assert question.answer.text == "not shown"
        if question.answer.text == "not shown":
            assert question.skill == "absent"


@KINDS
def test_json_parses_and_numbers_are_as_printed(kind: str) -> None:
    num_objects = 0
    for _, question in asked(kind):
        text = question.answer.text
        if text[0] in "[{" and re.search("json|\\[\\{|\\{", question.question.text, re.IGNORECASE):
            data = json.loads(text)
            assert json.dumps(data, ensure_ascii=False) == text or re.search(r"\d\.\d*0\b", text)
            num_objects += isinstance(data, dict)
    assert num_objects > 5


@KINDS
def test_json_has_the_keys_of_the_question_in_their_order(kind: str) -> None:
    for _, question in asked(kind):
        found = re.search(r'\{(".*)\}', question.question.text)
        if found and question.answer.text[0] in "{[":
            wanted = re.findall(r'"([^"]+)"', re.sub(r': (""|null|\.\.\.)', "", found[1]))
            data = json.loads(question.answer.text)
            for each in data if isinstance(data, list) else [data]:
                assert keys_of(each) == wanted


def keys_of(data: dict[str, Any]) -> list[str]:
    """All keys in the order of a question: those of the objects in a list follow the list's own."""
    keys = []
    for key, value in data.items():
        keys.append(key)
        if isinstance(value, list):
            assert len({tuple(each) for each in value}) == 1
            keys += value[0]
    return keys


def leaves_of(data: Any) -> list[Any]:
    if isinstance(data, dict | list):
        return [leaf for each in (data.values() if isinstance(data, dict) else data) for leaf in leaves_of(each)]
    return [data]


def test_values_of_json_are_printed() -> None:
    """Every value of an object is on the page, character by character, or null."""
    for kind in ("receipt", "invoice"):
        for page, question in asked(kind):
            if question.answer.text.startswith("{"):
                printed = "".join(glyph.char for glyph in page.glyphs)
                for value in leaves_of(json.loads(question.answer.text, parse_float=str, parse_int=str)):
                    parts = [] if value is None else value.split(", ")
                    assert all("".join(part.split()) in printed for part in parts), (value, question)


# Sums ----------------------------------------------------------------------------------------


def cents(sale: Sale, text: str) -> int:
    """What a printed amount says, read back by its style alone."""
    style = sale.style
    bare = text.replace(style.sign, "") if style.sign else text
    digits = re.sub(r"[^\d]", "", bare.replace(style.point, "")) if style.decimals else re.sub(r"[^\d]", "", bare)
    return -int(digits) if "-" in text or "(" in text else int(digits)


def sales() -> Iterator[Sale]:
    for seed in range(400):
        random = Random(seed)
        yield papers_sale.invent(random, ("receipt", "invoice")[seed % 2], Room(40, 10 + seed % 30))


def test_items_are_quantity_times_price() -> None:
    for sale in sales():
        for item in sale.items:
            share = 1 - int(item.discount.text.rstrip("%")) / 100 if item.reduced else 1.0
            exact = float(item.quantity.text) * cents(sale, item.unit_price.text) * share
            assert abs(cents(sale, item.amount.text) - max(exact, 1)) <= 1


def test_sums_add_up_as_printed() -> None:
    seen = set()
    for sale in sales():
        value = {line.kind: cents(sale, line.amount.text) for line in sale.sums}
        goods = sum(cents(sale, item.amount.text) for item in sale.items)
        seen |= set(value)
        assert value.get("subtotal", goods) == goods
        included = any("ncl" in line.label.text.lower() or "of which" in line.label.text.lower() or
                       "includ" in line.label.text.lower() for line in sale.sums if line.kind == "tax")  # fmt: skip
        taxes = 0 if included else sum(cents(sale, line.amount.text) for line in sale.sums if line.kind == "tax")
        total = goods - abs(value.get("discount", 0)) + taxes
        total += sum(value.get(kind, 0) for kind in ("tip", "service", "shipping"))
        assert value.get("total", total) == total
        if "change" in value:
            assert value["cash"] - value["change"] == total
        assert value.get("card_paid", total) == total
        if "balance" in value:
            assert total - abs(value["paid"]) == value["balance"]
    assert {"subtotal", "tax", "total", "cash", "change", "discount", "tip", "shipping", "balance"} <= seen


def test_totals_of_tables_add_up() -> None:
    num_totals = 0
    for seed in range(400):
        table = papers_table.invent(Random(seed), Room(50, 14))
        if table.totals is not None:
            for column, total in zip(table.columns, table.totals[1:], strict=True):
                num_totals += 1
                assert float(total.text) == pytest.approx(sum(float(cell.text) for cell in column.cells), abs=1e-6)
    assert num_totals > 10


# Questions and what is printed ---------------------------------------------------------------


def test_answers_of_highest_are_highest() -> None:
    """Recomputed from the numbers as printed."""
    num_checked = 0
    for seed in range(300):
        table = papers_table.invent(Random(seed), Room(50, 12))
        places = {piece: written_of(piece) for piece in pieces_of_table(table)}
        for question in papers_table.ask(Random(seed), table, places, 12):
            found = re.fullmatch(r"Which row has the (largest|smallest) (.+)\?", question.question.text)
            columns = [c for c in table.columns if found and c.head.text.startswith(found[2])]
            if found and len(columns) == 1 and question.answer.text in [c.text for c in table.rows.cells]:
                numbers = [float(re.sub(r"[^\d.-]", "", cell.text)) for cell in columns[0].cells]
                if all(re.fullmatch(r"-?[\d.]+%?", cell.text) for cell in columns[0].cells):
                    best = max(numbers) if found[1] == "largest" else min(numbers)
                    assert table.rows.cells[numbers.index(best)].text == question.answer.text
                    num_checked += 1
    assert num_checked > 3


def written_of(piece: Piece) -> papers_form.Written:
    return papers_form.Written(piece.text, (None,) * len(piece.text))


def pieces_of_table(table: papers_table.Table) -> Iterator[Piece]:
    for column in (table.rows, *table.columns):
        yield column.head
        yield from column.cells
    yield from table.totals or ()
    if table.title is not None:
        yield table.title


def test_ticks_are_told_as_drawn() -> None:
    answers = set()
    for seed in range(100):
        form = papers_form.invent(Random(seed), Room(50, 20))
        options = {piece.text: ticked for group in form.groups for piece, ticked in group.options}
        pieces = [piece for group in form.groups for piece, _ in group.options]
        pieces += [group.head for group in form.groups if group.head] + ([form.title] if form.title else [])
        for entry in form.entries:
            pieces += [entry.label] + ([entry.value] if entry.value else [])
        places = {piece: written_of(piece) for piece in pieces}
        for question in papers_form.ask(Random(seed), form, places, 8):
            found = re.fullmatch(r"(?:Is|Was) (.+) (?:ticked|checked|selected|marked|chosen)\?", question.question.text)
            if found and found[1] in options and len(options) == len(pieces_of_options(form)):
                assert question.answer.text == ("yes" if options[found[1]] else "no")
                answers.add(question.answer.text)
    assert answers == {"yes", "no"}


def pieces_of_options(form: papers_form.Form) -> list[Piece]:
    return [piece for group in form.groups for piece, _ in group.options]


# Layouts -------------------------------------------------------------------------------------


def inner_blocks(block: Block) -> Iterator[Block]:
    yield block
    match block:
        case Stack(blocks) | Side(blocks):
            for inner in blocks:
                yield from inner_blocks(inner)
        case Panel(inner):
            yield from inner_blocks(inner)


def test_held_out_layouts_are_never_trained() -> None:
    """Blanks with captions or dots and tables with dotted rows appear among the held-out layouts only."""

    def marks(unseen: bool) -> set[str]:
        found = set()
        for seed in range(300):
            random, room = Random(seed), Room(40, 20)
            form = papers_form.compose(random, papers_form.invent(random, room), room, unseen)
            table = papers_table.compose(random, papers_table.invent(random, room), room, unseen)
            for block in (*inner_blocks(form), *inner_blocks(table)):
                if isinstance(block, Blank) and block.kind in papers_form.UNSEEN_KINDS:
                    found.add(block.kind)
                if isinstance(block, Grid) and "d" in block.rules:
                    found.add("dotted rows")
        return found

    assert marks(unseen=False) == set()
    assert marks(unseen=True) == {"caption", "dotted", "dotted rows"}


def test_held_out_receipts_and_invoices_are_never_trained() -> None:
    def shapes(kind: str, unseen: bool) -> set[str]:
        found = set()
        for seed in range(200):
            random, room = Random(seed), Room(40, 20)
            sale = papers_sale.invent(random, kind, room)
            block = papers_sale_layouts.compose(random, sale, room, unseen)
            for inner in inner_blocks(block):
                rows = getattr(inner, "rows", ())
                if any(piece.text == "(x" for row in rows for line in row for piece in line):
                    found.add("counted behind")
                labels = [line.label for line in sale.sums]
                if isinstance(inner, Grid) and [piece for line in inner.rows[0] for piece in line] == labels:
                    found.add("strip of sums")
        return found

    assert shapes("receipt", False) | shapes("invoice", False) == set()
    assert shapes("receipt", True) == {"counted behind"}
    assert shapes("invoice", True) == {"strip of sums"}
