"""Simple pictures: coloured shapes and icons, alone, scattered or in rows, some with a character inside.

Here is what is drawn where; `scene_questions` asks about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush, Canvas, Color
from tessera.nano.pictures.icons import Icon, fetched_icons
from tessera.nano.pictures.page import MARK, Glyph, Page, Written
from tessera.nano.pictures.scene_questions import Scene, Thing, ask
from tessera.nano.pictures.shapes import COLORS, DIRECTIONS, OUTLINES, TURNABLE, mask

SMALLEST_THING, LARGEST_THING = 18, 120  # pixels
PLAIN = 3.0  # the contrast that a thing must have with what it lies on
SIGNS = "ABCDEFGHJKLMNPRSTUVWXYZ123456789"


@dataclass(frozen=True)
class Look:
    """What a thing is before it has a place."""

    name: str
    color: str = ""
    paint: Color = (0, 0, 0)
    icon: Icon | None = None
    filled: bool = True
    turn: int = 0
    direction: str = ""


@dataclass(frozen=True)
class Spot:
    x: float
    y: float
    size: int


def draw_scene(brush: Brush) -> Page:
    """A picture of one to a dozen things, and what can be asked about them."""
    random = brush.random
    if random.random() < 0.2:
        return draw_things(brush, 1)
    return draw_things(brush, min(random.randint(2, 6) if random.random() < 0.7 else random.randint(7, 12), 12))


def draw_things(brush: Brush, count: int, named: str | None = None) -> Page:
    """A scene of `count` things, the first of them `named`."""
    canvas, scene = paint_scene(brush, count, named)
    return canvas.page(ask(brush.random, scene))


def paint_scene(brush: Brush, count: int, named: str | None = None) -> tuple[Canvas, Scene]:
    random = brush.random
    layout, size, spots = _layout(brush, count)
    canvas, ground = _ground(brush, *size)
    looks = _looks(brush, len(spots), ground, named)
    if layout == "cards":
        for spot in spots:
            half = spot.size * 0.62
            box = (spot.x - half, spot.y - half, spot.x + half, spot.y + half)
            canvas.pen.rounded_rectangle(box, half / 5, ground, (128, 128, 128))
    signed = len(spots) > 1 and all(look.icon is None and look.filled for look in looks) and random.random() < 0.25
    signs = random.sample(SIGNS, len(spots)) if signed else [""] * len(spots)
    things = [_draw(brush, canvas, *drawn) for drawn in zip(looks, spots, signs, strict=True)]
    return canvas, Scene(tuple(things), layout == "row")


def _draw(brush: Brush, canvas: Canvas, look: Look, spot: Spot, sign: str) -> Thing:
    corner = (round(spot.x - spot.size / 2), round(spot.y - spot.size / 2))
    if look.icon is None:
        shape = mask(look.name, spot.size, look.filled, look.turn)
        canvas.image.paste(look.paint, corner, shape)
    else:
        icons = fetched_icons(brush.style.unseen_faces)
        assert icons is not None  # the icon is one of them
        drawing = icons.image(look.icon, spot.size)
        canvas.image.paste(drawing if look.icon.colored else look.paint, corner, drawing)
    mark = len(canvas.glyphs)
    canvas.glyphs.append(Glyph(MARK, spot.x, spot.y, spot.size))
    written = _sign(brush, canvas, look, spot, sign) if sign and spot.size >= 3 * SMALLEST_TYPE else None
    return Thing(
        look.name, look.color, spot.x, spot.y, spot.size, Written(MARK, (mark,)), look.icon is not None,
        look.direction, written,
    )  # fmt: skip


def _sign(brush: Brush, canvas: Canvas, look: Look, spot: Spot, sign: str) -> Written | None:
    if look.name in ("moon", "arrow", "heart", "triangle"):
        return None  # their middle is too narrow for a letter
    font = brush.face().font(max(round(SMALLEST_TYPE), round(spot.size * 0.36)))
    ink: Color = (255, 255, 255) if _luminance(look.paint) < 0.3 else (0, 0, 0)
    return canvas.write(spot.x, spot.y + font.size * 0.36, sign, font, ink, 0.5)


# Looks --------------------------------------------------------------------------------------------


def _looks(brush: Brush, count: int, ground: Color, named: str | None) -> list[Look]:
    """Some kinds of things, several of them more than once, so that counting is not always "1"."""
    random = brush.random
    icons = fetched_icons(brush.style.unseen_faces)
    use_icons = icons is not None and random.random() < 0.55
    most = max(1, count if random.random() < 0.4 else min(count, random.randint(2, 4)))
    colors = [color for color in COLORS if color != "white" or random.random() < 0.5]
    colors = random.sample(colors, min(len(colors), max(2, random.randint(1, most + 1))))
    one_color = random.random() < 0.15
    filled = random.random() < 0.75
    kinds: list[Look] = []
    if use_icons and icons is not None:
        for icon in icons.draw_from(random, most, random.random() < 0.7):
            kinds.append(Look(icon.name, icon=icon))
    else:
        kinds = [Look(name) for name in random.sample(list(OUTLINES), min(most, len(OUTLINES)))]
        if use_icons is False and random.random() < 0.3:
            kinds = kinds[: max(1, most // 2)]  # few shapes in many colours
    if named is not None:
        kinds = [_named(brush, named), *[kind for kind in kinds if kind.name != named]]
    chosen = [kinds[0], *(random.choice(kinds) for _ in range(count - 1))] if named else _spread(brush, kinds, count)
    plain = random.choice(colors)
    return [_painted(brush, kind, plain if one_color else random.choice(colors), filled, ground) for kind in chosen]


def _spread(brush: Brush, kinds: Sequence[Look], count: int) -> list[Look]:
    """Each kind at least once, while there is room."""
    chosen = [*kinds[:count], *(brush.random.choice(kinds) for _ in range(count - len(kinds)))]
    brush.random.shuffle(chosen)
    return chosen


def _named(brush: Brush, name: str) -> Look:
    if name in OUTLINES:
        return Look(name)
    icons = fetched_icons(brush.style.unseen_faces)
    assert icons is not None  # who names an icon took its name from there
    return Look(name, icon=brush.random.choice(icons.by_name[name]))


def _painted(brush: Brush, look: Look, color: str, filled: bool, ground: Color) -> Look:
    random = brush.random
    if look.icon is not None and look.icon.colored:
        return look
    paint = COLORS[color](random)
    while contrast(paint, ground) < (1.6 if color not in ("white", "black") else PLAIN):
        color = random.choice(list(COLORS))
        paint = COLORS[color](random)
    direction = random.choice(list(DIRECTIONS)) if look.name == "arrow" and look.icon is None else ""
    turn = round(DIRECTIONS[direction]) if direction else 0
    if look.icon is None and look.name in TURNABLE and random.random() < 0.4:
        turn = random.randint(-9, 9)
    return Look(look.name, color, paint, look.icon, filled or random.random() < 0.1, turn, direction)


# Places -------------------------------------------------------------------------------------------


def _layout(brush: Brush, count: int) -> tuple[str, tuple[int, int], list[Spot]]:
    """The layout's name, the picture's size, and where the things lie."""
    random = brush.random
    if count == 1:
        size = min(round(brush.size(SMALLEST_THING + 6, 200)), brush.max_width - 8, brush.max_height - 8)
        return "one", *_in_cells(brush, [size], 1, random.uniform(1.05, 1.8))
    if brush.style.unseen_layouts:
        return _ring(brush, count) if random.random() < 0.5 else _cards(brush, count)
    kind = random.choices(("scatter", "row", "rows"), (0.5, 0.2, 0.3))[0]
    if kind == "scatter":
        return "scatter", *_scatter(brush, count)
    columns = count if kind == "row" and count <= 6 else math.ceil(math.sqrt(count)) + random.randint(0, 1)
    base = _base_size(brush, columns, math.ceil(count / columns))
    even = random.random() < 0.5
    sizes = [base if even else max(SMALLEST_THING, round(base * random.uniform(0.5, 1))) for _ in range(count)]
    name = "row" if columns >= count else "rows"
    return name, *_in_cells(brush, sizes, columns, random.uniform(1.1, 1.5))


def _base_size(brush: Brush, columns: int, rows: int) -> int:
    room = min(brush.max_width / columns, brush.max_height / rows) / 1.5
    return max(SMALLEST_THING, min(round(brush.size(SMALLEST_THING, LARGEST_THING)), int(room)))


def _in_cells(brush: Brush, sizes: Sequence[int], columns: int, spacing: float) -> tuple[tuple[int, int], list[Spot]]:
    """Row after row; the picture is as large as its cells."""
    rows = math.ceil(len(sizes) / columns)
    cell = min(max(sizes) * spacing, brush.max_width / columns, brush.max_height / rows)
    cell = max(cell, 64 / max(columns, rows) if len(sizes) > 1 else 40)
    spots = []
    for number, size in enumerate(sizes):
        free = max(0.0, (cell - size) / 2 - 1)
        shift = free * brush.random.uniform(-0.4, 0.4)
        x, y = (number % columns + 0.5) * cell, (number // columns + 0.5) * cell
        spots.append(Spot(x + shift, y + shift, size))
    return (math.ceil(columns * cell), math.ceil(rows * cell)), spots


def _scatter(brush: Brush, count: int) -> tuple[tuple[int, int], list[Spot]]:
    """Anywhere, without touching; who finds no room is left out."""
    random = brush.random
    base = round(brush.size(SMALLEST_THING, LARGEST_THING))
    area = count * base * base * random.uniform(1.8, 4)
    width = round(min(brush.max_width, max(64, math.sqrt(area) * random.uniform(0.75, 1.5))))
    height = round(min(brush.max_height, max(64, area / width)))
    base = min(base, width // 2, height // 2)
    spots: list[Spot] = []
    for _ in range(count * 12):
        size = max(SMALLEST_THING, round(base * random.uniform(0.45, 1)))
        half = size / 2 + 2
        spot = Spot(random.uniform(half, width - half), random.uniform(half, height - half), size)
        if all(math.dist((spot.x, spot.y), (o.x, o.y)) > 0.6 * (size + o.size) + 4 for o in spots):
            spots.append(spot)
        if len(spots) == count:
            break
    return (width, height), spots


def _ring(brush: Brush, count: int) -> tuple[str, tuple[int, int], list[Spot]]:
    side = min(brush.max_width, brush.max_height, round(brush.size(110, 400)))
    radius = side * 0.36
    size = max(SMALLEST_THING, round(min(side * 0.25, 2 * math.pi * radius / count * 0.7)))
    first = brush.random.uniform(0, 2 * math.pi)
    angles = [first + 2 * math.pi * number / count for number in range(count)]
    spots = [Spot(side / 2 + radius * math.cos(a), side / 2 + radius * math.sin(a), size) for a in angles]
    return "ring", (side, side), spots


def _cards(brush: Brush, count: int) -> tuple[str, tuple[int, int], list[Spot]]:
    columns = math.ceil(math.sqrt(count))
    size = _base_size(brush, columns, math.ceil(count / columns))
    return "cards", *_in_cells(brush, [size] * count, columns, 1.45)


# Grounds ------------------------------------------------------------------------------------------


def _ground(brush: Brush, width: int, height: int) -> tuple[Canvas, Color]:
    """White, tinted, dark, or running from one tint into another."""
    random = brush.random
    light: Color = (random.randint(205, 255), random.randint(205, 255), random.randint(205, 255))
    color = random.choices(((255, 255, 255), light, (random.randint(10, 50),) * 3), (0.5, 0.38, 0.12))[0]
    canvas = Canvas(width, height, color)
    if random.random() < 0.2:
        other = tuple(max(0, min(255, part + random.randint(-25, 25))) for part in color)
        slope = Image.linear_gradient("L").resize(canvas.image.size)
        if random.random() < 0.5:
            slope = slope.transpose(Image.Transpose.ROTATE_90).resize(canvas.image.size)
        canvas.image.paste(other, (0, 0), slope)
    return canvas, color


def _luminance(color: Color) -> float:
    """Relative luminance as WCAG defines it, with its gamma taken as 2.2."""
    red, green, blue = (math.pow(part / 255, 2.2) for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    """WCAG's contrast ratio, 1 to 21, but at least what a strong difference of hue gives."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    hue = max(abs(a - b) for a, b in zip(one, other, strict=True)) / 64
    return max((light + 0.05) / (dark + 0.05), min(hue, PLAIN - 0.01))
