"""Plain coloured shapes: their outlines as polygons, and eleven colours by their everyday names."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

from tessera.nano.pictures.canvas import Color

Points = list[tuple[float, float]]
OVERSAMPLING = 4
OUTLINE = 0.09  # of the size: the stroke of a shape that is not filled


def _regular(corners: int, first: float = -90.0, inner: float | None = None) -> Points:
    """Corners on the unit circle; with `inner` a star whose dents lie at that radius."""
    steps = corners * (2 if inner else 1)
    radii = [inner if inner and step % 2 else 1.0 for step in range(steps)]
    angles = [math.radians(first + 360 * step / steps) for step in range(steps)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> Points:
    turns = [2 * math.pi * step / 60 for step in range(60)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(16 * math.sin(t) ** 3 / 17, -height / 17 - 0.1) for t, height in zip(turns, heights, strict=True)]


def _moon() -> Points:
    outer = [math.radians(angle) for angle in range(50, 311, 10)]
    inner = [math.radians(angle) for angle in range(290, 69, -10)]
    return [(math.cos(a), math.sin(a)) for a in outer] + [
        (0.42 + 0.76 * math.cos(a), 0.80 * math.sin(a)) for a in inner
    ]


def _cross() -> Points:
    arm, tip = 0.32, 0.95
    quarter = [(-arm, -tip), (arm, -tip), (arm, -arm)]
    points = []
    for turn in range(4):
        for x, y in quarter:
            for _ in range(turn):
                x, y = -y, x
            points.append((x, y))
    return points


ARROW: Points = [(-1, -0.3), (0.1, -0.3), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.3), (-1, 0.3)]
OUTLINES: dict[str, Points] = {
    "circle": _regular(72),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -0.9), (1, 0.8), (-1, 0.8)],
    "star": _regular(5, inner=0.42),
    "heart": _heart(),
    "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    "hexagon": _regular(6, 0),
    "pentagon": _regular(5),
    "octagon": _regular(8, 22.5),
    "cross": _cross(),
    "arrow": ARROW,
    "oval": [(x, 0.6 * y) for x, y in _regular(72)],
    "rectangle": [(-1, -0.55), (1, -0.55), (1, 0.55), (-1, 0.55)],
    "moon": _moon(),
}
TURNABLE = {"triangle", "star", "heart", "pentagon", "square", "rectangle", "cross"}  # a little; they keep their names
DIRECTIONS = {"right": 0.0, "down": 90.0, "left": 180.0, "up": 270.0}


@lru_cache(maxsize=4096)
def mask(shape: str, size: int, filled: bool, turn: int = 0) -> Image.Image:
    """The shape white on black, in a square of `size` pixels, turned clockwise by degrees."""
    side = size * OVERSAMPLING
    radius = side * (0.49 if filled else 0.45)
    sin, cos = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    points = [
        (side / 2 + radius * (x * cos - y * sin), side / 2 + radius * (x * sin + y * cos)) for x, y in OUTLINES[shape]
    ]
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    if filled:
        pen.polygon(points, fill=255)
    else:
        pen.line([*points, points[0], points[1]], fill=255, width=max(6, round(side * OUTLINE)), joint="curve")
    return image.reduce(OVERSAMPLING)


def _hue(low: float, high: float, saturation: tuple[float, float], value: tuple[float, float]) -> Callable[[Random], Color]:  # fmt: skip # noqa: E501
    def pick(random: Random) -> Color:
        parts = colorsys.hsv_to_rgb(
            random.uniform(low, high) % 360 / 360, random.uniform(*saturation), random.uniform(*value)
        )
        return round(parts[0] * 255), round(parts[1] * 255), round(parts[2] * 255)

    return pick


# Bounds are narrower than what people accept, so that no colour is a matter of taste.
COLORS: dict[str, Callable[[Random], Color]] = {
    "red": _hue(-8, 6, (0.78, 1.0), (0.72, 1.0)),
    "orange": _hue(22, 34, (0.82, 1.0), (0.92, 1.0)),
    "yellow": _hue(48, 58, (0.75, 1.0), (0.92, 1.0)),
    "green": _hue(96, 148, (0.5, 1.0), (0.4, 0.88)),
    "blue": _hue(203, 236, (0.65, 1.0), (0.55, 1.0)),
    "purple": _hue(266, 288, (0.5, 0.9), (0.45, 0.8)),
    "pink": _hue(322, 345, (0.3, 0.58), (0.95, 1.0)),
    "brown": _hue(18, 30, (0.6, 0.85), (0.32, 0.55)),
    "black": _hue(0, 360, (0.0, 0.1), (0.0, 0.12)),
    "white": _hue(0, 360, (0.0, 0.02), (0.97, 1.0)),
    "grey": _hue(0, 360, (0.0, 0.04), (0.42, 0.62)),
}
