"""Small plain sheets of a few lines, for pictures that are taught to be compared or turned back, not read at length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import ImageFont

from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush, Canvas, Color
from tessera.nano.pictures.page import Written, joined

TIGHT = 1.2  # of the type size: the least leading, and the least length of bars


@dataclass(frozen=True)
class Line:
    """What stands left and right on one line; `bar` is a length to draw between them, 0 to 1."""

    left: str
    right: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet, and its texts line by line."""

    canvas: Canvas
    left: tuple[Written, ...]
    right: tuple[Written | None, ...]

    @property
    def text(self) -> Written:
        """All lines as they are read."""
        rows = zip(self.left, self.right, strict=True)
        lines = [joined([part for part in row if part is not None and part.text], " ") for row in rows]
        return joined(lines, "\n")


def draw_sheet(brush: Brush, lines: Sequence[Line], height: int) -> Sheet:
    """The lines set one under another, in a type size at which they fit."""
    random = brush.random
    size, face = brush.size(10, 34), brush.face()
    leading = random.uniform(1.2, 1.7)
    share = random.uniform(2.5, 7) if any(line.bar is not None for line in lines) else 0.0  # of the type size
    while size > SMALLEST_TYPE and not _fits(brush, lines, face.font(size), leading, height, share):
        size -= 1
    font = face.font(size)
    if not _fits(brush, lines, font, leading, height, share):
        leading, share = TIGHT, min(share, TIGHT)
        lines = [_cut(line, font, brush.max_width - 10 - (share + 1.5) * font.size) for line in lines]
    left_width = max(font.getlength(line.left) for line in lines)
    right_width = max(font.getlength(line.right) for line in lines)
    gap = font.size * random.uniform(0.8, 1.5) if right_width else 0.0
    bars = share * font.size
    inner = min(left_width + gap + bars + right_width, brush.max_width - 8)
    margin = random.uniform(3, 3 + min(24, (brush.max_width - inner) / 3))
    paper, ink = brush.colors()
    canvas = Canvas(inner + 2 * margin, leading * font.size * len(lines) + 2 * margin, paper)
    centred = not right_width and random.random() < 0.3
    accent: Color = (random.randint(40, 200), random.randint(60, 190), random.randint(60, 210))
    lefts, rights = [], []
    for number, line in enumerate(lines):
        baseline = margin + font.size * (leading * number + 0.95)
        at = margin + inner / 2 if centred else margin
        lefts.append(canvas.write(at, baseline, line.left, font, ink, 0.5 if centred else 0.0))
        edge = margin + inner
        if line.bar is not None:
            start = margin + left_width + gap / 2
            end = start + max(2.0, bars * line.bar)
            canvas.pen.rectangle((start, baseline - 0.7 * font.size, end, baseline), fill=accent)
            edge = end + gap / 2 + font.getlength(line.right)
        rights.append(canvas.write(edge, baseline, line.right, font, ink, 1.0) if line.right else None)
    if brush.style.unseen_layouts or random.random() < 0.2:
        width, bottom = canvas.image.size
        canvas.pen.rectangle((0, 0, width - 1, bottom - 1), outline=ink, width=2 if brush.style.unseen_layouts else 1)
    return Sheet(canvas, tuple(lefts), tuple(rights))


def _cut(line: Line, font: ImageFont.FreeTypeFont, width: float) -> Line:
    """The line with as much of its left text as there is room for."""
    left = line.left
    while len(left) > 1 and font.getlength(left) + font.getlength(line.right) > width:
        left = left[:-1].rstrip()
    return replace(line, left=left)


def _fits(
    brush: Brush, lines: Sequence[Line], font: ImageFont.FreeTypeFont, leading: float, height: int, bars: float
) -> bool:
    left, right = (
        max(font.getlength(text) for text in side)
        for side in zip(*((line.left, line.right) for line in lines), strict=True)
    )
    width = left + right + (bars + 1.5) * font.size
    return width < brush.max_width - 8 and leading * font.size * len(lines) + 8 < height
