"""Boxes from glances whose patches are known."""

from __future__ import annotations

import pytest

from tessera.chat import Glance
from tessera.documents.page import Box
from tessera.documents.pointing import patch_box, pointed

WHOLE = (Box(1, 0.0, 0.0, 1.0, 1.0),)
GRID = (20, 10)  # patches are 0.1 wide and 0.05 high


def look(row: int, column: int, weight: float = 0.9, image: int = 0) -> tuple[Glance, ...]:
    return (Glance(image, GRID, row, column, weight, (column, column)),)


def same(box: Box, left: float, top: float, right: float, bottom: float, page: int = 1) -> bool:
    return box.page == page and (box.left, box.top, box.right, box.bottom) == pytest.approx((left, top, right, bottom))


def test_a_value_is_the_patches_of_its_tokens() -> None:
    found = pointed([look(4, 2, 0.8), look(4, 3, 0.6), look(4, 4, 1.0)], WHOLE)
    assert found is not None
    assert same(found.box, 0.2, 0.2, 0.5, 0.25)
    assert found.weight == pytest.approx(0.8)


def test_a_glance_that_goes_astray_does_not_widen_the_box() -> None:
    found = pointed([look(4, 2), look(4, 3), look(18, 9, 0.2), look(4, 4)], WHOLE)
    assert found is not None
    assert same(found.box, 0.2, 0.2, 0.5, 0.25)


def test_a_second_line_belongs_to_the_value() -> None:
    first, second = [look(4, column) for column in (7, 8, 9)], [look(6, column) for column in (0, 1)]
    found = pointed([*first, *second], WHOLE)
    assert found is not None
    assert same(found.box, 0.0, 0.2, 1.0, 0.35)


def test_of_several_heads_the_one_that_is_surest_counts() -> None:
    sure, unsure = Glance(0, GRID, 4, 2, 0.9, (2, 2)), Glance(0, GRID, 15, 8, 0.3, (8, 8))
    found = pointed([(unsure, sure)], WHOLE)
    assert found is not None
    assert same(found.box, 0.2, 0.2, 0.3, 0.25)


def test_a_tiles_patches_are_mapped_to_its_page() -> None:
    regions = (Box(2, 0.0, 0.0, 1.0, 1.0), Box(2, 0.5, 0.5, 1.0, 1.0))
    assert same(patch_box(look(10, 5)[0], regions[1]), 0.75, 0.75, 0.8, 0.775, page=2)
    # The page itself and its tile show the value: both glances are the same place.
    found = pointed([look(15, 7, image=0), look(10, 5, image=1)], regions)
    assert found is not None
    assert same(found.box, 0.7, 0.75, 0.8, 0.8, page=2)


def test_without_a_token_that_looks_there_is_no_box() -> None:
    assert pointed([], WHOLE) is None
    assert pointed([()], WHOLE) is None
    assert pointed([look(1, 1, image=3)], WHOLE) is None


@pytest.mark.parametrize(("turn", "box"), [
    # A tenth of the turned page across and a twentieth down, at 0.2 to 0.5 and 0.2 to 0.25.
    (90, (0.2, 0.5, 0.25, 0.8)), (180, (0.5, 0.75, 0.8, 0.8)), (270, (0.75, 0.2, 0.8, 0.5)),
])  # fmt: skip
def test_the_box_of_a_turned_page_is_on_the_page_as_it_is_displayed(
    turn: int, box: tuple[float, float, float, float]
) -> None:
    found = pointed([look(4, 2), look(4, 3), look(18, 9, 0.2), look(4, 4)], WHOLE, [turn])
    assert found is not None
    assert same(found.box, *box)


def test_a_line_runs_across_the_page_as_the_model_saw_it() -> None:
    # Five patches lie between these two. That is near enough along a line, and too far between lines.
    for turn in (0, 90, 180, 270):
        along = pointed([look(4, 1), look(4, 5)], WHOLE, [turn])
        astray = pointed([look(4, 1), look(9, 1, 0.2)], WHOLE, [turn])
        assert along is not None
        assert astray is not None
        assert sorted([along.box.right - along.box.left, along.box.bottom - along.box.top]) == pytest.approx(
            [0.05, 0.5]
        )
        assert sorted([astray.box.right - astray.box.left, astray.box.bottom - astray.box.top]) == pytest.approx(
            [0.05, 0.1]
        )
