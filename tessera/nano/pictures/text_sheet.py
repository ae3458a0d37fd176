"""A page of text in the making: lines and shapes are set first, and the canvas is cut to their size.

A sheet refuses what does not fit its width, height or number of characters, so that a layout writes
on until it is refused. It remembers what was set for the questions: rows in reading order, headings,
list items, pairs of key and value, and facts such as a telephone number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import ImageDraw, ImageFont

from tessera.nano.pictures.canvas import Brush, Canvas, Color, advance
from tessera.nano.pictures.page import Written, joined

Font = ImageFont.FreeTypeFont
Fact = tuple[str, str]  # what it is, and how it is printed
# Draws below the text, given the pen, the left and top edge of the text, and its width.
Shape = Callable[[ImageDraw.ImageDraw, float, float, float], None]


def fitted(text: str, font: Font, width: float) -> str:
    """As many of the words as the width holds; of a single long word as many letters."""
    while text and font.getlength(text) > width:
        fewer = text.rstrip().rpartition(" ")[0]
        text = fewer if fewer.strip() else text[: max(1, int(len(text) * width / font.getlength(text)))]
        if len(text) == 1:
            break
    return text.rstrip()


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """The words in lines no wider than `width`; a word wider than that is cut."""
    lines: list[str] = []
    space = advance(font, " ")
    taken = width + 1.0
    for word in text.split():
        needed = sum(advance(font, char) for char in word)
        if needed > width:
            word = fitted(word, font, width)
            needed = width
        if taken + space + needed <= width:
            lines[-1] += " " + word
            taken += space + needed
        else:
            lines.append(word)
            taken = needed
    return lines


@dataclass(frozen=True)
class Line:
    """One printed piece; `align` counts from the left edge (0) to the right one (1) of all the text."""

    text: str
    font: Font
    x: float
    baseline: float
    ink: Color
    align: float
    role: str
    row: int
    block: int
    facts: tuple[Fact, ...]


@dataclass
class Reading:
    """What was printed, in reading order, with the printed characters' places."""

    rows: list[Written] = field(default_factory=list)
    blocks: list[Written] = field(default_factory=list)  # paragraphs: rows joined by line feeds
    roles: dict[str, list[Written]] = field(default_factory=dict)
    facts: dict[str, list[Written]] = field(default_factory=dict)

    def printed(self, role: str) -> list[Written]:
        return self.roles.get(role, [])

    @property
    def text(self) -> str:
        return "\n".join(row.text for row in self.rows)


class Sheet:
    """Lines set below each other on paper that is not cut yet."""

    def __init__(self, brush: Brush, width: float, height: float, longest: int) -> None:
        self.brush = brush
        self.width, self.height, self.longest = width, height, longest
        self.paper, self.ink = brush.colors()
        self.lines: list[Line] = []
        self.shapes: list[Shape] = []
        self.y = self.bottom = 0.0
        self.right = 0.0
        self.row = self.block = -1

    def new_block(self, gap: float = 0.0) -> None:
        self.block += 1
        self.y += gap if self.lines else 0.0

    def add(
        self,
        text: str,
        font: Font,
        role: str = "body",
        x: float = 0.0,
        align: float = 0.0,
        ink: Color | None = None,
        facts: Sequence[Fact] = (),
        leading: float = 1.3,
        beside: bool = False,
        width: float | None = None,
    ) -> bool:
        """Print a line below the last, or beside it in the same row; False where there is no room."""
        room = self.width - x if width is None else min(width, self.width - x)
        text = fitted(text, font, room)
        needed = 0.0 if beside else font.size * leading
        used = sum(len(line.text) + 1 for line in self.lines)
        if not text.strip() or font.getlength(text) > room:
            return False
        if self.lines and (self.y + needed > self.height or used + len(text) > self.longest):
            return False
        self.y += needed
        self.row += not beside
        baseline = self.y - font.size * (leading - 1.0) * 0.5 - font.size * 0.25
        self.lines.append(
            Line(text, font, x, baseline, ink or self.ink, align, role, self.row, max(self.block, 0), tuple(facts))
        )
        self.right = max(self.right, x + font.getlength(text))
        self.bottom = max(self.bottom, self.y)
        return True

    def finish(self) -> tuple[Canvas, Reading]:
        """Cut the paper, draw everything on it, and tell what was printed."""
        brush = self.brush
        left, extra_right = _margins(brush, self.right, brush.max_width)
        top, extra_bottom = _margins(brush, self.bottom, brush.max_height)
        canvas = Canvas(left + self.right + extra_right, top + self.bottom + extra_bottom, self.paper)
        for shape in self.shapes:
            shape(canvas.pen, left, top, self.right)
        reading = Reading()
        rows: dict[int, list[Written]] = {}
        blocks: dict[int, dict[int, list[Written]]] = {}
        for line in self.lines:
            x = left + line.x + line.align * self.right
            written = canvas.write(x, top + line.baseline, line.text, line.font, line.ink, line.align)
            rows.setdefault(line.row, []).append(written)
            blocks.setdefault(line.block, {}).setdefault(line.row, []).append(written)
            reading.roles.setdefault(line.role, []).append(written)
            for kind, value in line.facts:
                place = line.text.find(value)
                if place >= 0:
                    reading.facts.setdefault(kind, []).append(written[place : place + len(value)])
        reading.rows = [joined(parts, " ") for parts in rows.values()]
        reading.blocks = [joined([joined(row, " ") for row in block.values()], "\n") for block in blocks.values()]
        return canvas, reading


def _margins(brush: Brush, length: float, longest: float) -> tuple[float, float]:
    """Before and after, mostly small; in a fifth of the pictures up to 40 % where there is room."""
    random = brush.random
    before, after = random.uniform(2, 12), random.uniform(2, 12)
    room = longest - length - before - after
    if room > 0 and random.random() < 0.2:
        before += random.uniform(0, min(room / 2, 0.4 * length + 20))
        after += random.uniform(0, min(room / 2, 0.4 * length + 20))
    return before, after
