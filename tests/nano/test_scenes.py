"""Scenes, pairs, turned sheets and small talk: what is asked of them is true of what is drawn.

Judges that know nothing of the drawing: OpenCV's connected components count shapes, the colour names
of a survey (xkcd's, in matplotlib) name colours, NumPy turns pictures, decimal arithmetic subtracts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from matplotlib.colors import XKCD_COLORS, to_rgb
from PIL import Image

from tessera.nano.pictures import icons, scenes
from tessera.nano.pictures.canvas import Brush, Style
from tessera.nano.pictures.fonts import built_in
from tessera.nano.pictures.icons import Icons
from tessera.nano.pictures.page import MARK, Glyph, Page, unprinted
from tessera.nano.pictures.pairs import BY_HOW_MUCH, CHEAPER, DEARER, TURNS, draw_pair, draw_turned, turned
from tessera.nano.pictures.scene_questions import plural
from tessera.nano.pictures.scenes import draw_scene, draw_things
from tessera.nano.pictures.shapes import COLORS, OUTLINES, mask
from tessera.nano.pictures.small_talk import ABOUT, draw_absent, draw_small_talk

Drawer = Callable[[Brush], Page]
DRAWERS: list[Drawer] = [draw_scene, draw_pair, draw_turned, draw_small_talk, draw_absent]


@pytest.fixture
def icon_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Icons:
    """Sheets as fetching makes them, with drawings that only have to differ."""
    for held_out in (False, True):
        Image.effect_noise((icons.COLUMNS * icons.CELL, icons.CELL), 60).save(tmp_path / f"font{held_out:d}.png")
    names = ["dog", "apple", "key", "bus", "rose", "drum", "tent", "sock", "crab", "pizza", "bell", "kite", "bomb"]
    entries = {f"font{held:d}": {"held_out": held, "colored": False, "names": names} for held in (False, True)}
    (tmp_path / icons.MANIFEST).write_text(json.dumps(entries))
    monkeypatch.setattr(scenes, "fetched_icons", lambda unseen=False: Icons(tmp_path, unseen))
    return Icons(tmp_path)


@pytest.fixture
def only_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "fetched_icons", lambda unseen=False: None)


def brush(seed: int, style: Style | None = None, side: int = 320) -> Brush:
    return Brush(Random(seed), [built_in()], style or Style(), side, side)


@pytest.mark.usefixtures("icon_sheets")
@pytest.mark.parametrize("style", [Style(), Style(unseen_layouts=True)], ids=["trained", "unseen"])
@pytest.mark.parametrize("draw", DRAWERS, ids=lambda draw: draw.__name__)
def test_pages_keep_to_the_contract(draw: Drawer, style: Style) -> None:
    for seed in range(40):
        page = draw(brush(seed, style))
        assert page.questions
        for picture in page.pictures:
            assert picture.mode == "RGB"
            assert max(picture.size) <= 330
        for glyph in page.glyphs:
            width, height = page.pictures[glyph.picture].size
            assert 0 <= glyph.x <= width
            assert 0 <= glyph.y <= height
        for question in page.questions:
            assert question.question.text.strip()
            assert question.answer.text.strip() == question.answer.text != ""
            for text in filter(None, (question.question, question.answer, question.clue)):
                assert len(text.text) == len(text.glyphs)
                linked = zip(text.text, text.glyphs, strict=True)
                assert all(index is None or page.glyphs[index].char == char for char, index in linked)


@pytest.mark.usefixtures("icon_sheets")
@pytest.mark.parametrize("draw", DRAWERS, ids=lambda draw: draw.__name__)
def test_the_same_seed_draws_the_same_page(draw: Drawer) -> None:
    for seed in range(10):
        one, other = draw(brush(seed)), draw(brush(seed))
        assert (one.glyphs, one.questions) == (other.glyphs, other.questions)
        assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in other.pictures]


@pytest.mark.usefixtures("only_shapes")
def test_as_many_shapes_are_drawn_as_are_counted() -> None:
    counted = 0
    for seed in range(120):
        page = draw_scene(brush(seed, Style(), 400))
        pixels = np.asarray(page.pictures[0]).astype(int)
        corner = pixels[0, 0]
        marks = [glyph for glyph in page.glyphs if glyph.char == MARK]
        signed = len(marks) != len(page.glyphs)
        gradient = np.abs(pixels[[0, -1, 0, -1], [0, 0, -1, -1]] - corner).max() > 2
        if signed or gradient:
            continue  # letters are holes in shapes, and a gradient has no one ground
        drawn = (np.abs(pixels - corner).max(axis=2) > 24).astype(np.uint8)
        drawn = cv2.dilate(drawn, np.ones((3, 3), np.uint8))
        assert cv2.connectedComponents(drawn)[0] - 1 == len(marks)
        counted += 1
    assert counted > 50


@pytest.mark.parametrize("name", COLORS)
def test_colors_bear_the_names_that_people_give_them(name: str) -> None:
    """The survey's nearest colour, of 558 whose name ends in one of the eleven, ends in the drawn one's."""

    def lab(colors: list[tuple[float, ...]]) -> np.ndarray:
        return cv2.cvtColor(np.float32([colors]), cv2.COLOR_RGB2LAB)[0]

    surveyed = {
        title: title.replace("gray", "grey").split()[-1].removeprefix("xkcd:")
        for title in XKCD_COLORS
        if title != "xkcd:pale grey"  # which is #fdfdfe, and white to anybody else
    }
    surveyed = {title: last for title, last in surveyed.items() if last in COLORS}
    random = Random(1)
    drawn = lab([tuple(part / 255 for part in COLORS[name](random)) for _ in range(300)])
    distances = np.linalg.norm(drawn[:, None] - lab([to_rgb(XKCD_COLORS[title]) for title in surveyed])[None], axis=2)
    nearest = [list(surveyed.values())[index] for index in distances.argmin(axis=1)]
    assert nearest.count(name) >= 285


@pytest.mark.usefixtures("only_shapes")
def test_left_right_above_and_below_are_where_the_marks_are() -> None:
    checked: set[str] = set()
    for seed in range(150):
        page = draw_things(brush(seed), 2)
        marks = [glyph for glyph in page.glyphs if glyph.char == MARK]
        for question in page.questions:
            answer = question.answer.text
            if answer not in ("left", "right", "above", "below") or "arrow" in question.question.text:
                continue
            assert question.clue is not None
            this, other = sorted(marks, key=lambda mark: page.glyphs.index(mark) != question.clue.glyphs[0])
            shift = (this.x - other.x) if answer in ("left", "right") else (this.y - other.y)
            assert (shift > 0) == (answer in ("right", "below")), question
            checked.add(answer)
    assert checked == {"left", "right", "above", "below"}


def test_outlines_stay_in_their_square_and_differ() -> None:
    drawn = {shape: np.asarray(mask(shape, 60, True)) for shape in OUTLINES}
    for one, pixels in drawn.items():
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert edge.max() < 200, one  # nothing is cut off
        for other, others in drawn.items():
            if one != other:
                assert (np.abs(pixels.astype(int) - others) > 128).mean() > 0.02, (one, other)


def test_turned_pictures_and_their_glyphs_agree_with_numpy() -> None:
    pixels = np.full((40, 70, 3), 255, np.uint8)
    pixels[10, 20] = 0
    page = Page((Image.fromarray(pixels),), (Glyph("x", 20.5, 10.5, 9),), ())
    for degrees, quarters in ((90, 1), (180, 2), (270, 3)):
        after = turned(page, degrees)
        expected = np.rot90(pixels, -quarters)  # NumPy counts counterclockwise
        assert np.array_equal(np.asarray(after.pictures[0]), expected)
        (row,), (column,) = np.nonzero(expected[:, :, 0] == 0)
        assert (after.glyphs[0].x, after.glyphs[0].y) == (column + 0.5, row + 0.5)


def test_every_turn_is_drawn_and_answered_in_its_words() -> None:
    answers = {draw_turned(brush(seed)).questions[0].answer.text for seed in range(60)}
    assert answers == set(TURNS.values())
    assert turned(Page((), (), ()), 0) == Page((), (), ())


def test_what_is_dearer_and_by_how_much_is_right() -> None:
    checked = 0
    for seed in range(400):
        page = draw_pair(brush(seed))
        one, other = (_amount(page, picture) for picture in (0, 1))
        if one is None or other is None:
            continue
        for question in page.questions:
            asked = question.question.text.casefold().rstrip("?.")
            if asked in {wording.casefold().rstrip("?.") for wording in DEARER}:
                assert question.answer.text == ("the first" if one > other else "the second")
            elif asked in {wording.casefold().rstrip("?.") for wording in CHEAPER}:
                assert question.answer.text == ("the second" if one > other else "the first")
            elif asked in {wording.casefold().rstrip("?.") for wording in BY_HOW_MUCH}:
                assert Decimal(re.sub(r"[^\d.]", "", question.answer.text)) == abs(one - other)
            else:
                continue
            checked += 1
    assert checked > 30


def _amount(page: Page, picture: int) -> Decimal | None:
    """The one plain amount printed in a picture: digits, a point and two digits."""
    glyphs = [glyph for glyph in page.glyphs if glyph.picture == picture]
    text = ""
    for before, glyph in pairwise([*glyphs[:1], *glyphs]):
        apart = abs(glyph.x - before.x) > 0.95 * glyph.size or glyph.y != before.y
        text += " " + glyph.char if apart else glyph.char
    found = re.findall(r"(?<![\d.,/-])\d{1,3}(?:,\d{3})*\.\d\d(?![\d./-])", text)
    return Decimal(found[0].replace(",", "")) if len(found) == 1 and len(re.findall(r"\d[.,]\d", text)) == 1 else None


def test_small_talk_has_one_answer_and_often_no_picture() -> None:
    pages = [draw_small_talk(brush(seed)) for seed in range(200)]
    assert {q.answer.text for page in pages for q in page.questions} == {ABOUT}
    assert 60 < sum(not page.pictures for page in pages) < 140
    assert len({q.question.text for page in pages for q in page.questions}) > 250


def test_absent_fields_do_not_stand_on_the_page() -> None:
    for seed in range(60):
        page = draw_absent(brush(seed))
        (printed,) = (q.answer.text for q in page.questions if q.skill == "transcribe")
        absent = [q for q in page.questions if q.skill == "absent"]
        assert absent
        assert all(q.answer == unprinted("not shown") for q in absent)
        assert "total" not in printed.casefold() or not any("total" in q.question.text.casefold() for q in absent)


def test_unseen_icons_come_from_other_fonts(icon_sheets: Icons) -> None:
    unseen = Icons(icon_sheets.folder, unseen=True)
    assert {icon.source for icon in icon_sheets.all}.isdisjoint(icon.source for icon in unseen.all)
    drawn = icon_sheets.draw_from(Random(3), 5, one_source=True)
    assert len({icon.name for icon in drawn}) == 5
    assert icon_sheets.image(drawn[0], 40).size == (40, 40)


def test_every_thing_has_a_drawing_to_look_for() -> None:
    things = icons.things()
    assert len({thing.name for thing in things}) == len(things) > 350
    assert all(thing.emoji or thing.glyphs for thing in things)
    known = {thing.name for thing in things}
    assert {name for group in icons.KINDRED for name in group} <= known


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("bus", "buses"), ("baby", "babies"), ("key", "keys"), ("mouse", "mice"), ("torch", "torches")],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many
