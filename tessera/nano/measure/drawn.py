"""Trials from training's own drawers: seeds, typefaces and layouts that no training draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from tessera.nano.measure.trial import FACES, LAYOUTS, SEEDS, Trial, trials_of
from tessera.nano.pictures.canvas import Style
from tessera.nano.pictures.mix import MIXED, Course, draw_page

STYLES = {
    SEEDS: Style(),
    FACES: Style(unseen_faces=True),
    LAYOUTS: Style(unseen_layouts=True),
}
QUESTIONS = 3  # of one page, which is read once for all of them
UNASKED = ("dense",)  # drawers whose pages come without questions


def drawn_trials(group: str, pages: int, course: Course = MIXED) -> Iterator[Trial]:
    """So many pages of each drawer in the group's style."""
    for name, _ in course.shares:
        if name in UNASKED:
            continue
        only = replace(course, shares=((name, 1.0),))
        for number in range(pages):
            # Training's seeds are numbers, so that no text is among them.
            page = draw_page(only, Random(f"{group} {name} {number}"), STYLES[group])
            yield from trials_of(page, group, name, QUESTIONS)
