"""Page ranges, tiles, blank pages, the size of type, and the order of words."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from tessera.documents.api import budget_for
from tessera.documents.extraction import Extraction, Options
from tessera.documents.ink import is_blank, type_height
from tessera.documents.page import Box, Page
from tessera.documents.pages import read_pages
from tessera.documents.plan import Budget, page_side, page_tokens, views
from tessera.documents.presets import preset_of
from tessera.documents.ranges import page_ranges
from tessera.documents.tiles import LEAST_SIDE, legible_side, needs_tiles, tile_boxes
from tessera.documents.words import Piece, in_reading_order, is_real, words_of
from tessera.errors import UsageError
from tessera.load import BUNDLED_FOLDER
from tessera.weights.checkpoint import open_checkpoint
from tests.documents.files import image_bytes, pdf_bytes, scan, text_at, written


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1-5,8,-1", [1, 2, 3, 4, 5, 8, 10]), ("3", [3]), ("9-", [9, 10]), ("8-99", [8, 9, 10]), ("11,12", []),
     (" 2 , 1 - 3 ", [1, 2, 3]), ("-3--2", [8, 9]), ("-99", []), ("8--1", [8, 9, 10])],
)  # fmt: skip
def test_ranges_mean_what_people_write(text: str, numbers: list[int]) -> None:
    assert page_ranges(text, 10) == numbers


@pytest.mark.parametrize("text", ["", "a", "0", "1-0", "5-3", "1,,2", "1..3", "1-2-3", "1," * 2000, "9" * 30])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        page_ranges(text, 10)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=5), st.integers(1, 40))
def test_ranges_are_the_union_of_their_parts(pairs: list[tuple[int, int]], count: int) -> None:
    text = ",".join(f"{first}-{first + more}" for first, more in pairs)
    every = {n for first, more in pairs for n in range(first, first + more + 1)}
    assert page_ranges(text, count) == sorted(every & set(range(1, count + 1)))


# Tiles and the size of type ------------------------------


def page_of(tmp_path: Path, data: bytes) -> Page:
    (page,) = read_pages([written(tmp_path / "a", data)])
    assert isinstance(page, Page)
    return page


def lines(size: float, count: int = 20, top: float = 780) -> str:
    return "".join(text_at(60, top - 1.5 * size * n, "Amount due on receipt", size) for n in range(count))


@pytest.mark.parametrize(
    ("size", "small"), [(6, True), (8, True), (9.5, True), (10.5, False), (12, False), (14, False)]
)
def test_small_type_asks_for_tiles_from_the_text_layer_and_from_the_scan(
    tmp_path: Path, size: float, small: bool
) -> None:
    """A4 at 1024 pixels has 87.6 dpi, so that 12 pixels are 9.9 points."""
    page = page_of(tmp_path, pdf_bytes(lines(size)))
    assert needs_tiles(page) == small
    if abs(size - 10) > 1:  # what pixels tell is less exact
        scanned = page_of(tmp_path, image_bytes(page.image(2048), "PNG"))
        assert scanned.words == ()
        assert needs_tiles(scanned) == small
    assert not needs_tiles(page, side=2048)


def test_a_footnote_asks_for_no_tiles_nor_does_what_has_no_more_pixels(tmp_path: Path) -> None:
    assert not needs_tiles(page_of(tmp_path, pdf_bytes(lines(12) + text_at(60, 40, "small print", 5))))
    assert needs_tiles(page_of(tmp_path, pdf_bytes(lines(12) + lines(5, 10, 120))))
    small = page_of(tmp_path, image_bytes(scan(size=(700, 1000), em=9), "PNG"))
    assert not needs_tiles(small)
    assert not needs_tiles(page_of(tmp_path, image_bytes(PILImage.new("RGB", (2000, 3000), "white"), "PNG")))


def placed(size: float) -> bytes:
    """A4 whose lower half is empty."""
    return pdf_bytes(lines(size, 12, 780))


@pytest.mark.parametrize("size", [9, 12, 18, 36])
def test_a_page_for_a_small_model_is_as_large_as_its_type_needs(tmp_path: Path, size: float) -> None:
    budget = Budget(image_side=1020, type_size=14.0)
    page = page_of(tmp_path, placed(size))
    scanned = page_of(tmp_path, image_bytes(page.image(2000), "PNG"))
    for each in (page, scanned):
        ((part, side),) = [view for view in views(each, "off", budget)]
        shown = each.image(side, crop=part)
        assert max(shown.size) == side
        assert side < 1020
        em = size / 842 * page_side(each, budget)  # of 842 points
        assert em == pytest.approx(14.0, rel=0.05 if each.words else 0.35)
        assert part is not None
        assert part.top < (842 - 780 - size) / 842 < part.bottom < 0.95
        whole = page_tokens(each, "off", replace(budget, type_size=None))
        assert page_tokens(each, "off", budget) < (0.8 if size > 10 else 1.0) * whole


def test_a_side_stays_within_its_bounds_and_other_models_get_all_of_theirs(tmp_path: Path) -> None:
    assert [legible_side(height, 1020, 14.0) for height in (None, 7.0, 14.0, 28.0, 900.0)] == [
        1020, 1020, 1020, 510, LEAST_SIDE
    ]  # fmt: skip
    assert legible_side(14.0, 1020, 14.0, 0.5) == 510
    page = page_of(tmp_path, placed(12))
    assert views(page, "off", Budget()) == [(None, 1024)]
    assert views(page, "off", Budget().limited(600)) == [(None, 600)]
    assert Budget().limited(4000).image_side == Budget().limited(None).image_side == 1024
    nano = open_checkpoint(BUNDLED_FOLDER).config.vision_encoder
    wide = replace(nano, hidden_size=1024, num_attention_heads=16)
    assert (budget_for(nano, 4096).type_size, budget_for(wide, 4096).type_size) == (14.0, None)


@pytest.mark.parametrize("context", [2_000, 4_000, 8_000, 10_000, 12_000, 16_384])
@pytest.mark.parametrize("type_size", [None, 14.0])
def test_a_page_and_its_tiles_fit_the_context_however_small(
    context: int, type_size: float | None, tmp_path: Path
) -> None:
    """Of an A4 page, 1,024 pixels high and 724 wide, in tokens of 16 pixels: 64 rows of 46 tokens and a break."""
    page = page_of(tmp_path, pdf_bytes(text_at(50, 700, "Small print", size=6)))
    budget = Budget(context_tokens=context, type_size=type_size)
    shown = views(page, "2x2", budget)
    tokens = page_tokens(page, "2x2", budget)
    assert tokens <= max(context - 2048, context // 2)
    if type_size is None:
        assert shown[0][1] == (1024 if context >= 3_008 + 2_048 else shown[0][1])
        assert len(shown) in (1, 5)
        assert all(side / 0.55 > 1024 for _, side in shown[1:]), "tiles show more than the page does"
        assert len(shown) == (5 if context >= 10_000 else 1)


@pytest.mark.parametrize("context", [1, 2, 50])
@pytest.mark.parametrize("tiles", ["off", "2x2"])
def test_a_context_without_room_leaves_a_page_that_can_be_rendered(context: int, tiles: str, tmp_path: Path) -> None:
    """A server may tell any; the model then refuses the page, not the renderer the whole run."""
    page = page_of(tmp_path, pdf_bytes(text_at(50, 700, "Small print", size=6)))
    for part, side in views(page, tiles, Budget(context_tokens=context, token_side=1)):
        assert max(page.image(side, crop=part).size) == side


def test_the_option_goes_before_the_preset_for_the_largest_side() -> None:
    preset = preset_of("mine", {"max_image_side": 512})
    assert Extraction([], preset, Options()).budget.image_side == 512
    assert Extraction([], preset, Options(max_image_side=700)).budget.image_side == 700
    with pytest.raises(UsageError, match=r"max_image_side is 9; it must lie between 256 and 16,384"):
        Options(max_image_side=9)
    with pytest.raises(UsageError, match="max_image_side is 9"):
        preset_of("mine", {"max_image_side": 9})


def test_sizes_of_type_in_scans_are_near() -> None:
    for em, words in itertools.product((9, 12, 16, 24), ("Invoice 2024-118", "sum of all wares", "TOTAL EUR 99")):
        image = PILImage.new("RGB", (724, 1024), (244, 243, 240))
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(em)
        for row in range(20):
            draw.text((60, 60 + row * 1.6 * em), f"{words} {words}", font=font, fill=(40, 40, 40))
        height = type_height(image)
        assert height is not None
        assert height == pytest.approx(em, rel=0.3), (em, words)
    assert type_height(PILImage.new("RGB", (724, 1024), "white")) is None


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.5))
def test_tiles_cover_the_page_and_overlap_by_what_is_asked(rows: int, columns: int, overlap: float) -> None:
    class Bare(Page):
        number = 7

        def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
            raise NotImplementedError

    boxes = tile_boxes(Bare(), rows, columns, overlap)
    assert len(boxes) == rows * columns
    assert {box.page for box in boxes} == {7}
    across = boxes[:columns]
    assert (across[0].left, across[-1].right, boxes[0].top, boxes[-1].bottom) == (0, 1, 0, 1)
    for one, two in itertools.pairwise(across):
        assert (one.right - two.left) / (one.right - one.left) == pytest.approx(overlap, abs=1e-9)
    assert len({round(box.right - box.left, 9) for box in across}) == 1
    with pytest.raises(UsageError):
        tile_boxes(Bare(), 0)


# Blank pages ---------------------------------------------------------------------------------------------------------


def worn(page: PILImage.Image, noise: float = 6.0) -> PILImage.Image:
    """The page as a scanner gives it: grain, light that falls off, and a JPEG's blocks."""
    values = np.asarray(page).astype(float) * np.linspace(1, 0.93, page.width)[None, :, None]
    values += np.random.default_rng(1).normal(0, noise, (page.height, page.width, 1))
    return PILImage.fromarray(values.clip(0, 255).astype(np.uint8))


def paper() -> PILImage.Image:
    return PILImage.new("RGB", (724, 1024), (248, 247, 243))


def with_dust(page: PILImage.Image, count: int) -> PILImage.Image:
    draw, random = ImageDraw.Draw(page), np.random.default_rng(3)
    for x, y in random.uniform((0, 0), page.size, (count, 2)):
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(80, 80, 80))
    return page


def test_paper_with_grain_and_dust_is_blank() -> None:
    for page in (
        PILImage.new("RGB", (724, 1024), "white"),
        paper(),
        with_dust(paper(), 20),
        PILImage.new("RGB", (3, 2)),
    ):
        assert is_blank(page)
        assert is_blank(worn(page))


@pytest.mark.parametrize("ink", [(20, 20, 20), (150, 150, 150), (200, 40, 40), (230, 200, 0)])
@pytest.mark.parametrize("what", ["7", "ok", "Page 3 of 9", "stamp", "signature"])
def test_a_number_a_stamp_or_a_stroke_is_not_blank(ink: tuple[int, int, int], what: str) -> None:
    page = paper()
    draw = ImageDraw.Draw(page)
    if what == "stamp":
        draw.rectangle((500, 150, 570, 190), outline=ink, width=2)
    elif what == "signature":
        draw.line([(x, 800 + 12 * np.sin(x / 5)) for x in range(100, 200)], fill=ink, width=2)
    else:
        draw.text((350, 980), what, fill=ink, font=ImageFont.load_default(12))
    assert not is_blank(page)
    assert not is_blank(worn(page, 3.0))


# Words and their order ------------------------------


def chars(text: str, left: float = 0.1, top: float = 0.1) -> list[tuple[int, float, float, float, float]]:
    return [(ord(sign), left + 0.01 * n, top, left + 0.01 * n + 0.01, top + 0.02) for n, sign in enumerate(text)]


def test_words_are_what_white_space_separates_and_ligatures_are_letters() -> None:
    words = words_of(chars("o\ufb03ce  12\u00a0345 auto\x02\n\nend"))
    assert [word.text for word in words] == ["office", "12", "345", "auto-", "end"]
    assert (words[0].left, words[0].right) == pytest.approx((0.1, 0.14))
    assert words_of(chars("gone", left=1.2)) == []
    assert [word.text for word in words_of([*chars("\ud83d\ude00"), *chars("\ud83d", left=0.5)])] == [
        "\U0001f600\ufffd"
    ]


def test_only_printable_text_is_real() -> None:
    assert is_real(words_of(chars("Total 12.50 €")))
    for junk in ("\ue001\ue002\ue003\ue004 ab", "(cid:3)(cid:4)", "\ufffd\ufffd a", "\x01\x03\x04"):
        assert not is_real(words_of(chars(junk)))


def prose(left: float, word: str, count: int = 20) -> list[list[Piece]]:
    """Lines of five words in a column of 0.4 of the page's width."""
    return [
        [Piece(f"{word}{row}.{n}", left + n * 0.08, 0.1 + row * 0.03, left + n * 0.08 + 0.07, 0.12 + row * 0.03)
         for n in range(5)]
        for row in range(count)
    ]  # fmt: skip


def texts(words: list[Piece]) -> list[str]:
    return [word.text for word in words]


def test_columns_of_prose_are_read_one_after_the_other_however_they_were_written() -> None:
    left, right = prose(0.05, "l"), prose(0.55, "r")
    title = [Piece("Title", 0.3, 0.03, 0.7, 0.06)]
    wanted = texts([*title, *(word for line in (*left, *right) for word in line)])
    columns = [*title, *(word for line in (*left, *right) for word in line)]
    across = [*title, *(word for pair in zip(left, right, strict=True) for line in pair for word in line)]
    shuffled = [word for line in np.random.default_rng(5).permutation([*left, *right]) for word in line]
    assert texts(in_reading_order(columns)) == wanted
    assert texts(in_reading_order(across)) == wanted
    assert texts(in_reading_order([*title, *shuffled])) == wanted


def test_a_tables_rows_stay_together_and_text_at_an_angle_is_left_alone() -> None:
    table = [Piece(f"{row}.{n}", 0.1 + n * 0.2, 0.1 + row * 0.03, 0.2 + n * 0.2, 0.12 + row * 0.03)
             for row in range(20) for n in range(4)]  # fmt: skip
    assert in_reading_order(table) == table
    upside_down = [Piece(w.text, 1 - w.right, 1 - w.bottom, 1 - w.left, 1 - w.top) for w in table]
    assert in_reading_order(upside_down) == upside_down
    sideways = [Piece(w.text, w.top, 1 - w.right, w.bottom, 1 - w.left) for w in table]
    assert in_reading_order(sideways) == sideways


def test_two_columns_of_a_pdf_are_read_in_order(tmp_path: Path) -> None:
    rows = range(12)
    left = [text_at(50, 760 - 20 * row, f"alpha beta gamma delta {row}") for row in rows]
    right = [text_at(320, 760 - 20 * row, f"one two three four {row}") for row in rows]
    wanted = [f"alpha beta gamma delta {row}" for row in rows] + [f"one two three four {row}" for row in rows]
    for content in ("".join((*left, *right)), "".join(one + two for one, two in zip(left, right, strict=True))):
        page = page_of(tmp_path, pdf_bytes(content))
        assert page.text.splitlines() == wanted
