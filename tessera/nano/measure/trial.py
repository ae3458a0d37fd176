"""One question about pictures with its right answer, and what is known of them for the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from PIL import Image

from tessera.nano.pictures.page import Page

SEEDS, FACES, LAYOUTS = "held-out seeds", "unseen typefaces", "unseen layouts"
RENDERERS, REAL_PAGES = "other renderers", "real PDF pages"
GROUPS = (SEEDS, FACES, LAYOUTS, RENDERERS, REAL_PAGES)
FROM_AXIS = " from the axis"  # after the skill's name where values are measured, not read


@dataclass(frozen=True)
class Trial:
    """A question, its pictures and its answer; `source` names the drawer or the program."""

    group: str
    source: str
    skill: str
    pictures: tuple[Image.Image, ...]
    question: str
    answer: str
    tolerance: float = 0.0  # relative, of a number
    type_size: float | None = None  # pixels; None where nothing is printed

    @property
    def longest_side(self) -> int:
        return max((max(picture.size) for picture in self.pictures), default=0)


def trials_of(page: Page, group: str, source: str, most: int) -> list[Trial]:
    """A page's first questions; every skill of the page gets its turn before any has a second."""
    sizes = [glyph.size for glyph in page.glyphs if glyph.char.isprintable()]
    size = median(sizes) if sizes else None
    trials = [
        Trial(
            group, source, q.skill + (FROM_AXIS if q.tolerance else ""), page.pictures, q.question.text, q.answer.text,
            q.tolerance, size,
        )
        for q in page.questions
    ]  # fmt: skip
    return in_turns(trials, most)


def in_turns(trials: Sequence[Trial], most: int) -> list[Trial]:
    seen: dict[str, int] = {}
    ranked = []
    for trial in trials:
        rank = seen[trial.skill] = seen.get(trial.skill, -1) + 1
        ranked.append((rank, trial))
    return [trial for _, trial in sorted(ranked, key=lambda pair: pair[0])][:most]
