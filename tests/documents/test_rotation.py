"""Which way pages are up: asked of the model about thumbnails, confirmed, each page for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageOps

from tessera.chat import Glance
from tessera.documents import extract
from tessera.errors import ReplyError
from tessera.messages import Image
from tests.documents.fakes import Scripted, completion, draw
from tests.documents.files import pdf_bytes, text_at

SCHEMA = {"properties": {"vendor": {"type": "string"}}}
SAID = {"vendor": "Acme"}


def turning(said: dict[tuple[int, int], str]) -> Scripted:
    """A model that answers what is said of a thumbnail's size, "0" else, and names the shapes of what it is shown."""

    def answer(images: list[Any], params: Any) -> Any:
        if params.grammar is not None and params.grammar.kind == "choice":
            assert len(images) == 1
            assert max(images[0].size) == 256
            return completion(said.get(images[0].size, "0"))
        shapes = ["wide" if each.width > each.height else "tall" for each in images]
        return SAID | {"vendor": " ".join(shapes)}

    return Scripted(answer, turns=True)


TALL, WIDE = (205, 256), (256, 205)  # thumbnails of a drawn page


@pytest.mark.parametrize(
    ("said", "asked", "shown"),
    [
        ({TALL: "90"}, 2, "wide"),
        ({TALL: "90", WIDE: "90"}, 2, "tall"),  # not confirmed
        ({TALL: "no number"}, 1, "tall"),
        ({}, 1, "tall"),
    ],
    ids=["confirmed", "not-confirmed", "no-answer", "upright"],
)
def test_the_model_is_asked_which_way_a_page_is_up_and_must_confirm_it(
    said: dict[tuple[int, int], str], asked: int, shown: str, tmp_path: Path
) -> None:
    model = turning(said)
    (record,) = list(extract(draw(tmp_path / "a.png", "x"), SCHEMA, model))
    assert record.value["vendor"] == shown
    assert len(model.asked) == asked + 1


def test_each_page_of_a_scan_is_turned_in_its_own_way(tmp_path: Path) -> None:
    path, pages = tmp_path / "a.tif", [PILImage.new("RGB", size, "white") for size in ((240, 300), (300, 240))]
    for page in pages:
        ImageDraw.Draw(page).text((10, 10), "x", "black", font_size=24)
    pages[0].save(path, save_all=True, append_images=[*pages[1:], pages[0]])
    model = turning({WIDE: "270", TALL: "0"})
    (record,) = list(extract(path, SCHEMA, model))
    assert record.value["vendor"] == "tall tall tall"
    assert [params.grammar.kind for _, params in model.asked] == [*["choice"] * 4, "json_schema"]


def test_which_way_is_up_is_not_asked_of_text_of_pictures_or_where_it_is_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_bytes(text_at(100, 700, "Acme")))
    scan = draw(tmp_path / "a.png", "x")
    cases: list[tuple[Path, Any, bool | None]] = [
        (tmp_path / "a.pdf", SCHEMA, None), (scan, SCHEMA, False), (scan, "preset:describe", None),
    ]  # fmt: skip
    for path, schema, wanted in cases:
        model = turning({TALL: "90"})
        list(extract(path, schema, model, detect_rotation=wanted))
        assert len(model.asked) == 1


def test_a_question_about_a_turn_that_fails_leaves_the_page_as_it_is(tmp_path: Path) -> None:
    def answer(images: list[Any], params: Any) -> Any:
        return ReplyError("no choices here") if params.grammar.kind == "choice" else SAID

    (record,) = list(extract(draw(tmp_path / "a.png", "x"), SCHEMA, Scripted(answer, turns=True)))
    assert record.value["vendor"] == "Acme"


class Looking(Scripted):
    """Finds the dark mark in the last image that it was shown, and has looked at its patch."""

    def locate(self, messages: Any, reply: Any, spans: Any, heads: Any = ()) -> Any:
        images = [part.source for message in messages for part in message.content if isinstance(part, Image)]
        left, top, right, bottom = ImageOps.invert(images[-1].convert("L")).point(lambda p: 255 * (p > 128)).getbbox()
        grid = images[-1].height // SIDE, images[-1].width // SIDE
        glance = Glance(len(images) - 1, grid, top // SIDE, left // SIDE, 0.9, (0, 0))
        assert (right - left, bottom - top) == (SIDE, SIDE)
        return [[(glance,)] for _ in spans]


SIDE = 20  # of the mark and of a patch; pages have a whole number of them


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("tiles", ["off", "2x2"])
def test_where_a_model_looked_on_a_turned_page_is_a_place_of_the_page_itself(
    turn: int, tiles: str, tmp_path: Path
) -> None:
    thumbnails: list[str] = []

    def answer(images: list[Any], params: Any) -> Any:
        if params.grammar.kind != "choice":
            return SAID
        thumbnails.append(str(turn) if not thumbnails else "0")
        return completion(thumbnails[-1])

    page = PILImage.new("RGB", (440, 660), "white")
    # In the last of four tiles, which share a tenth: the first pixel of that is 9/19 of the page.
    page.paste("black", (300, 440, 300 + SIDE, 440 + SIDE))
    page.save(tmp_path / "a.png")
    model = Looking(answer, turns=True)
    (record,) = list(extract(tmp_path / "a.png", SCHEMA, model, tiles=tiles, verify=True))
    field = record.fields["vendor"]
    assert field.box_source == "attention"
    assert field.box is not None
    got = [field.box.left * 440, field.box.top * 660, field.box.right * 440, field.box.bottom * 660]
    assert got == pytest.approx([300, 440, 320, 460], abs=0.01 if tiles == "off" else 2 * SIDE)
    if tiles == "off":  # read again upright: a line of three heights, with 0.12 of the page's width at each end
        crop = model.asked[-1][0][0].content[0].source
        assert crop.size == pytest.approx((SIDE + 0.24 * (440 if turn == 180 else 660), 3 * SIDE), abs=1)
