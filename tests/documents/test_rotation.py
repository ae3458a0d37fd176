"""Which way pages are up: asked of the model about thumbnails, confirmed, each page for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from tessera.documents import extract
from tessera.errors import ReplyError
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
