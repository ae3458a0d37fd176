"""The marks of charts with smooth edges, and text at any angle.

Pillow draws polygons without anti-aliasing, so each smooth mark is drawn three times as large as a
mask of its own bounding box and laid on the canvas through it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from tessera.nano.pictures.canvas import CENTRE_ABOVE_BASELINE, Canvas, Color
from tessera.nano.pictures.page import Glyph, Written

FINER = 3
Point = tuple[float, float]
Box = tuple[float, float, float, float]


def _through_mask(
    canvas: Canvas,
    box: Box,
    color: Color,
    opacity: float,
    draw: Callable[[ImageDraw.ImageDraw, Callable[[Point], Point]], None],
) -> None:
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(canvas.image.width, math.ceil(box[2]) + 1), min(canvas.image.height, math.ceil(box[3]) + 1)
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", ((right - left) * FINER, (bottom - top) * FINER))
    draw(ImageDraw.Draw(mask), lambda point: ((point[0] - left) * FINER, (point[1] - top) * FINER))
    small = mask.reduce(FINER)
    if opacity < 1:
        small = small.point([round(level * opacity) for level in range(256)])
    canvas.image.paste(color, (left, top), small)


def _around(points: Sequence[Point], space: float) -> Box:
    across, down = [x for x, _ in points], [y for _, y in points]
    return min(across) - space, min(down) - space, max(across) + space, max(down) + space


def polyline(canvas: Canvas, points: Sequence[Point], color: Color, width: float, dash: int = 0) -> None:
    pieces = [points] if not dash else _dashes(points, dash)

    def draw(pen: ImageDraw.ImageDraw, place: Callable[[Point], Point]) -> None:
        for piece in pieces:
            pen.line([place(point) for point in piece], fill=255, width=round(width * FINER), joint="curve")

    _through_mask(canvas, _around(points, width), color, 1.0, draw)


def _dashes(points: Sequence[Point], dash: int) -> list[Sequence[Point]]:
    found: list[Sequence[Point]] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        start = 0.0
        while start < length:
            end = min(length, start + dash)
            found.append([(x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length) for at in (start, end)])
            start += dash * 1.8
    return found


def polygon(canvas: Canvas, points: Sequence[Point], color: Color, opacity: float = 1.0) -> None:
    _through_mask(
        canvas, _around(points, 1), color, opacity, lambda pen, place: pen.polygon([place(p) for p in points], fill=255)
    )


def marker(canvas: Canvas, x: float, y: float, radius: float, color: Color, shape: str = "dot") -> None:
    if shape == "square":
        points = [
            (x - radius, y - radius),
            (x + radius, y - radius),
            (x + radius, y + radius),
            (x - radius, y + radius),
        ]
    elif shape == "diamond":
        points = [(x, y - radius * 1.3), (x + radius * 1.3, y), (x, y + radius * 1.3), (x - radius * 1.3, y)]
    elif shape == "triangle":
        points = [(x, y - radius * 1.2), (x + radius * 1.2, y + radius), (x - radius * 1.2, y + radius)]
    else:
        points = _arc(x, y, radius, 0, 360)
    polygon(canvas, points, color)


def _arc(x: float, y: float, radius: float, start: float, end: float) -> list[Point]:
    """Points of an arc; degrees run clockwise from the top."""
    count = max(3, int(abs(end - start) / 360 * (24 + radius)))
    angles = [math.radians(start + (end - start) * at / count) for at in range(count + 1)]
    return [(x + radius * math.sin(angle), y - radius * math.cos(angle)) for angle in angles]


def sector(
    canvas: Canvas,
    centre: Point,
    radius: float,
    hole: float,
    span: tuple[float, float],
    color: Color,
    edge: Color | None,
) -> None:
    """A part of a pie, or of a ring; degrees run clockwise from the top."""
    x, y = centre
    points = _arc(x, y, radius, *span)
    points += _arc(x, y, hole, span[1], span[0]) if hole else [centre]
    polygon(canvas, points, color)
    if edge is not None:
        polyline(canvas, [*points, points[0]], edge, 1.2)


def bar(
    canvas: Canvas, box: Box, color: Color, *, edge: Color | None = None, outline: bool = False, hatch: int = 0
) -> None:
    """An upright rectangle, flat, as an outline or hatched; `hatch` numbers the patterns."""
    left, top, right, bottom = (round(side) for side in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    if outline:
        canvas.pen.rectangle((left, top, right, bottom), outline=color, width=2)
    elif hatch:
        canvas.pen.rectangle((left, top, right, bottom), fill=canvas.background)
        _hatch(canvas, (left, top, right, bottom), color, hatch)
        canvas.pen.rectangle((left, top, right, bottom), outline=edge or color)
    else:
        canvas.pen.rectangle((left, top, right, bottom), fill=color, outline=edge)


def _hatch(canvas: Canvas, box: tuple[int, int, int, int], color: Color, number: int) -> None:
    left, top, right, bottom = box
    mask = Image.new("L", (right - left + 1, bottom - top + 1))
    pen, reach = ImageDraw.Draw(mask), max(mask.size)
    pitch, kind = (5, 8)[number // 4 % 2], number % 4
    for at in range(-reach, 2 * reach, pitch):
        if kind in (1, 3):
            pen.line((at, 0, at + reach, reach), fill=255)
        if kind in (2, 3):
            pen.line((at + reach, 0, at, reach), fill=255)
        if kind == 0:
            pen.line((0, at, reach, at), fill=255)
    canvas.image.paste(color, (left, top), mask)


def rule(canvas: Canvas, start: Point, end: Point, color: Color, dash: int = 0, width: int = 1) -> None:
    """A level or upright line on whole pixels."""
    (x0, y0), (x1, y1) = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
    if not dash:
        canvas.pen.line((x0, y0, x1, y1), fill=color, width=width)
        return
    length = max(abs(x1 - x0), abs(y1 - y0), 1)
    for at in range(0, length, 2 * dash):
        until = min(length, at + dash)
        ends = [(x0 + (x1 - x0) * part // length, y0 + (y1 - y0) * part // length) for part in (at, until)]
        canvas.pen.line(ends, fill=color, width=width)


def write_turned(
    canvas: Canvas, at: Point, text: str, font: ImageFont.FreeTypeFont, fill: Color, degrees: int, align: float
) -> Written:
    """A line turned counterclockwise about `at`, which is on the middle of its letters.

    `align` 0 starts the line there, 0.5 centres it, 1 ends it there.
    """
    length, height = math.ceil(font.getlength(text)) + 2, math.ceil(font.size * 1.5)
    strip = Image.new("L", (length, height))
    baseline = round(height / 2 + font.size * CENTRE_ABOVE_BASELINE)
    ImageDraw.Draw(strip).text((1, baseline), text, font=font, fill=255, anchor="ls")
    turned = (
        strip.transpose(Image.Transpose.ROTATE_90)
        if degrees == 90
        else strip.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    )
    along = (math.cos(math.radians(degrees)), -math.sin(math.radians(degrees)))
    shift = (0.5 - align) * length
    x, y = at[0] + along[0] * shift, at[1] + along[1] * shift
    canvas.image.paste(fill, (round(x - turned.width / 2), round(y - turned.height / 2)), turned)
    indices: list[int | None] = []
    start = 1 - length / 2
    for char in text:
        width = font.getlength(char)
        indices.append(None if char == " " else len(canvas.glyphs))
        if char != " ":
            middle = start + width / 2
            canvas.glyphs.append(Glyph(char, x + along[0] * middle, y + along[1] * middle, font.size))
        start += width
    return Written(text, tuple(indices))


def crosses(box: Box, others: Sequence[Box]) -> bool:
    """Whether the box lies over any of the others."""
    left, top, right, bottom = box
    return any(left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in others)
