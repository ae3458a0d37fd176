"""Draws a chart with our own renderer: measures its texts, finds room for them, then draws.

A chart whose texts would overlap or leave the picture is not drawn: `DoesNotFit` says so, and whoever
chose the data takes some of it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from PIL import ImageFont

from tessera.nano.pictures import charts_marks as marks
from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush, Canvas, Color
from tessera.nano.pictures.charts_data import Axis, Chart, Drawn
from tessera.nano.pictures.charts_look import Look, luminance, mixed, readable_on, told_apart
from tessera.nano.pictures.charts_marks import Box
from tessera.nano.pictures.page import Written, joined

RISE = 0.35  # of the type size: from a line's middle down to its baseline
LINE = 1.3  # of the type size: from one line of text to the next
MARKERS = ("dot", "square", "diamond", "triangle")


class DoesNotFit(Exception):
    """The chart has no room in the picture at this type size."""


@dataclass
class Type:
    """The fonts of one chart."""

    base: ImageFont.FreeTypeFont
    head: ImageFont.FreeTypeFont

    @property
    def size(self) -> float:
        return self.base.size


@dataclass
class Legend:
    """The names of the series, with their swatches, as a block of rows."""

    entries: list[str]
    type: Type
    place: str  # right, bottom, top, inside
    swatch: str
    widest: float
    rows: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for entry in range(len(self.entries)):
            row = self.rows[-1] if self.rows else None
            column = self.place in ("right", "inside") or row is None
            if column or self._row_width([*row, entry]) > self.widest:  # type: ignore[misc]
                self.rows.append([entry])
            elif row is not None:
                row.append(entry)
        if self.width > self.widest:
            raise DoesNotFit

    @property
    def patch(self) -> float:
        return self.type.size * (1.7 if self.swatch in ("wide", "line") else 0.8)

    def _entry_width(self, entry: int) -> float:
        return self.patch + self.type.size * 0.45 + self.type.base.getlength(self.entries[entry])

    def _row_width(self, row: list[int]) -> float:
        return sum(map(self._entry_width, row)) + self.type.size * 1.1 * (len(row) - 1)

    @property
    def width(self) -> float:
        return max(map(self._row_width, self.rows))

    @property
    def height(self) -> float:
        return len(self.rows) * self.type.size * 1.45

    def draw(
        self, canvas: Canvas, left: float, top: float, ink: Color, paint: Callable[[int, Box], None], centred: bool
    ) -> list[Written]:
        written = []
        for number, row in enumerate(self.rows):
            x = left + (self.width - self._row_width(row)) / 2 * centred
            y = top + (number + 0.5) * self.type.size * 1.45
            for entry in row:
                half = self.type.size * 0.4
                paint(entry, (x, y - half, x + self.patch, y + half))
                x += self.patch + self.type.size * 0.45
                text = self.entries[entry]
                written.append(canvas.write(x, y + self.type.size * RISE, text, self.type.base, ink))
                x += self.type.base.getlength(text) + self.type.size * 1.1
        return written


@dataclass
class Head:
    """Title and subtitle over a chart."""

    lines: list[tuple[str, str, ImageFont.FreeTypeFont]]  # which text, a line of it, its font

    @property
    def height(self) -> float:
        return sum(font.size * LINE for _, _, font in self.lines) + (self.lines[0][2].size * 0.4 if self.lines else 0)

    @property
    def width(self) -> float:
        return max((font.getlength(text) for _, text, font in self.lines), default=0.0)

    def draw(self, canvas: Canvas, left: float, right: float, top: float, look: Look) -> dict[str, Written]:
        parts: dict[str, list[Written]] = {}
        y = top
        for name, text, font in self.lines:
            y += font.size * LINE
            x = left + (right - left) * look.title_align
            color = look.ink if name == "title" else look.faint
            x = max(left + font.getlength(text) * look.title_align, x) if look.title_align == 0.5 else x
            written = canvas.write(x, y - font.size * 0.25, text, font, color, 0.5 if look.title_align == 0.5 else 0.0)
            parts.setdefault(name, []).append(written)
        return {name: joined(written, " ") for name, written in parts.items()}


def head_of(chart: Chart, type_: Type, widest: float) -> Head:
    lines = [("title", line, type_.head) for line in broken(chart.title, type_.head, widest)]
    lines += [("subtitle", line, type_.base) for line in broken(chart.subtitle, type_.base, widest)]
    if len(lines) > 3:
        raise DoesNotFit
    return Head(lines)


def broken(text: str, font: ImageFont.FreeTypeFont, widest: float) -> list[str]:
    """The text in as few lines as fit the width, broken at blanks."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= widest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if any(font.getlength(line) > widest for line in lines):
        raise DoesNotFit
    return lines


def choose_type(brush: Brush, look: Look, size: float) -> Type:
    face = brush.face()
    other = brush.face() if brush.chance(0.12) else face
    base = max(round(SMALLEST_TYPE), round(size))
    return Type(face.font(base), other.font(min(40, max(base, round(base * look.title_ratio)))))


def paint_on_axes(brush: Brush, chart: Chart, look: Look, type_: Type) -> Drawn:
    """The chart on a canvas of its own; `DoesNotFit` where it has no room."""
    return _Painter(brush, chart, look, type_).paint()


def margins(brush: Brush, size: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Empty space at the left, top, right and bottom: mostly little, now and then much, as the room allows."""
    pad = size * brush.random.uniform(0.3, 1.0)
    spare_x, spare_y = max(0.0, brush.max_width - width - 2 * pad), max(0.0, brush.max_height - height - 2 * pad)
    if not brush.chance(0.15):
        return pad, pad, pad, pad
    reach_x, reach_y = min(spare_x / 2, 0.3 * width), min(spare_y / 2, 0.3 * height)
    return (
        pad + brush.random.random() * reach_x,
        pad + brush.random.random() * reach_y,
        pad + brush.random.random() * reach_x,
        pad + brush.random.random() * reach_y,
    )


def all_inside(canvas: Canvas) -> bool:
    """Whether no character is cut off at the picture's edges."""
    width, height = canvas.image.size
    return all(
        0.3 * glyph.size < glyph.x < width - 0.3 * glyph.size and 0.3 * glyph.size < glyph.y < height - 0.3 * glyph.size
        for glyph in canvas.glyphs
    )


class _Painter:
    """Draws one chart that has axes."""

    def __init__(self, brush: Brush, chart: Chart, look: Look, type_: Type) -> None:
        self.brush, self.chart, self.type = brush, chart, type_
        self.look = told_apart(look, len(chart.series))
        self.random, self.size, self.font = brush.random, type_.size, type_.base
        if chart.axis is None:
            raise DoesNotFit
        self.axis: Axis = chart.axis
        self.upright = not chart.lying
        self.taken: list[Box] = []  # where no further text may stand
        self.thickness = self.random.uniform(*look.thickness)
        if len(chart.series) > 1 and not chart.stacked:
            self.thickness = max(self.thickness, 0.72)
        self.halo = self.random.random() < 0.7
        self.values: list[list[Written | None]] = [[None] * len(chart.labels) for _ in chart.series]
        self.many_colors = len(chart.series) == 1 and self.random.random() < 0.25

    # Measuring ---------------------------------------------------------------------------------

    def paint(self) -> Drawn:
        self._measure()
        width, height = self.left + self.plot_width + self.right, self.top + self.plot_height + self.bottom
        space = margins(self.brush, self.size, width, height)
        width, height = width + space[0] + space[2], height + space[1] + space[3]
        if width > self.brush.max_width + 1 or height > self.brush.max_height + 1:
            raise DoesNotFit
        self.canvas = Canvas(width, height, self.look.paper)
        x, y = space[0] + self.left, space[1] + self.top
        self.box = (round(x), round(y), round(x + self.plot_width), round(y + self.plot_height))
        self.space = space
        self._draw_ground()
        self.labels = self._draw_labels()
        across_ticks = self._draw_across() if self.chart.kind == "scatter" else []
        ticks = self._draw_ticks()
        self._draw_marks()
        series = self._draw_legend()
        texts = self._draw_titles()
        if not all_inside(self.canvas):
            raise DoesNotFit
        colors = [self._color(at, 0) for at in range(len(self.chart.series))]
        plain = not (self.look.hatch or self.many_colors or (self.look.outline and self.chart.kind == "scatter"))
        return Drawn(
            self.canvas.image, self.canvas.glyphs, self.labels, series, self.values, ticks, across_ticks, texts,
            colors if plain else [],
        )  # fmt: skip

    def _measure(self) -> None:
        chart, size, font, random = self.chart, self.size, self.font, self.random
        self.gap = size * random.uniform(0.25, 0.5)
        widest_picture = self.brush.max_width - 2 * size
        self.legend = self._choose_legend(widest_picture)
        place = self.legend.place if self.legend else ""
        side = (self.legend.width + size * 1.2) if self.legend and place == "right" else 0.0
        self.direct = not self.legend and len(chart.series) > 1
        if self.direct:
            side = max(map(font.getlength, chart.series)) + size * 0.6
        tick_width = max((font.getlength(self.axis.style.show(tick)) for tick in self.axis.ticks), default=0.0)
        self.title_up = chart.value_title if self.upright else chart.category_title
        self.title_down = chart.category_title if self.upright else chart.value_title
        self.left = (size * 1.6 if self.title_up else 0.0) + self.gap + self.look.tick
        if self.upright:
            self.left += tick_width if chart.show_ticks else 0.0
            self.right = max(side, size * 0.3)
            self._measure_upright()
        else:
            self.label_lines = [self._wrapped(label, 0.42 * widest_picture) for label in chart.labels]
            self.left += max(font.getlength(line) for lines in self.label_lines for line in lines)
            self.right = max(side, tick_width / 2 if chart.show_ticks else 0.0)
            self._measure_lying(tick_width)
        self.bottom += size * 1.5 if self.title_down else 0.0
        if self.legend and place == "bottom":
            self.bottom += self.legend.height + size * 0.5
        whole = self.left + self.plot_width + self.right
        if self.legend and place in ("bottom", "top") and self.legend.width > whole:
            self.plot_width += self.legend.width - whole
            whole = self.legend.width
        self.head = head_of(chart, self.type, max(whole, 0.0))
        self.top = self.head.height + size * (0.7 if chart.show_ticks else 0.3)
        if self.legend and place == "top":
            self.top += self.legend.height + size * 0.3
        self._measure_height()

    def _choose_legend(self, widest: float) -> Legend | None:
        names = list(self.chart.series)
        if names == [""]:
            return None
        place = self.random.choice(self.look.legends)
        if place == "direct":
            ends = [row[-1] for row in self.chart.values]
            if self.chart.kind == "line" and len(names) > 1 and None not in ends:
                return None
            place = "top"
        if place == "inside" and not self.upright:
            place = "right"
        swatch = "line" if self.chart.kind == "line" else self.look.swatch
        share = {"right": 0.4, "inside": 0.45}.get(place, 0.95)
        return Legend(names, self.type, place, swatch, widest * share)

    def _wrapped(self, label: str, widest: float) -> list[str]:
        lines = broken(label, self.font, widest)
        if len(lines) > 2:
            raise DoesNotFit
        return lines

    def _value_width(self) -> float:
        chart = self.chart
        if not chart.printed:
            return 0.0
        return max(
            self.font.getlength(chart.shown(row, at))
            for row in range(len(chart.series))
            for at in range(len(chart.labels))
        )

    def _bars_in_slot(self) -> int:
        return 1 if self.chart.stacked or self.chart.kind in ("line", "scatter") else len(self.chart.series)

    def _measure_upright(self) -> None:
        """Chooses how labels are set, and the width of a label's slot."""
        chart, size, font = self.chart, self.size, self.font
        count = len(chart.labels)
        room = self.brush.max_width - self.left - self.right - 2 * size
        bars = self._bars_in_slot()
        value = self._value_width()
        least = max(size * 0.9 * bars, 7.0 * bars)
        if value:
            packed = self.thickness if bars > 1 or chart.stacked else 1.0
            least = max(least, bars * (value + size * 0.35) / packed)
        if chart.kind == "scatter":
            ticks = chart.across_axis.ticks if chart.across_axis else []
            widest = (
                max(font.getlength(chart.across_axis.style.show(tick)) for tick in ticks) if chart.across_axis else 0
            )
            needed = (widest + size * 0.8) * (len(ticks) + 1)
            self.turned, self.bottom = 0, size * 1.3 + self.gap + self.look.tick
            self.right = max(self.right, widest / 2)
            self.plot_width = max(needed, 9 * size)
            if self.plot_width > room:
                raise DoesNotFit
            self.plot_width = min(room, self.plot_width * self.random.uniform(1.0, 1.5))
            return
        lengths = [font.getlength(label) for label in chart.labels]
        ways: list[tuple[int, float, float]] = [(0, max(lengths) + size * 0.6, size * LINE)]
        if any(" " in label for label in chart.labels):
            for widest in (max(lengths) * 0.75, max(lengths) * 0.55):
                try:
                    lines = [broken(label, font, widest) for label in chart.labels]
                except DoesNotFit:
                    continue
                if max(map(len, lines)) <= 3:
                    ways.append((1, widest + size * 0.6, max(map(len, lines)) * size * LINE))
        turned = [(45, size * 1.6, (max(lengths) + size) * 0.72), (90, size * 1.35, max(lengths) + size * 0.3)]
        self.random.shuffle(turned)
        ways = turned + ways if max(lengths) > 2.5 * size and self.random.random() < 0.12 else ways + turned
        fitting = [way for way in ways if max(way[1], least) * count <= room and way[2] < 0.4 * self.brush.max_height]
        if not fitting:
            raise DoesNotFit
        turned_by, slot, height = fitting[0]
        slot = max(slot, least)
        self.turned = turned_by if turned_by > 1 else 0
        self.label_lines = [[label] for label in chart.labels]
        if turned_by == 1:
            self.label_lines = [broken(label, font, slot - size * 0.5) for label in chart.labels]
        self.bottom = height + self.gap + self.look.tick
        if turned_by == 45:
            self.left = max(self.left, lengths[0] * 0.72 + size * 0.5 - slot / 2)
        self.plot_width = min(room, max(slot * count * self.random.uniform(1.0, 1.7), 6 * size))

    def _measure_lying(self, tick_width: float) -> None:
        size = self.size
        room = self.brush.max_width - self.left - self.right - 2 * size
        needed = 6 * size
        if self.chart.show_ticks:
            needed = max(needed, (tick_width + size * 0.8) * 3)
        value = self._value_width()
        needed = max(
            needed, value * 2.2 if not self.chart.stacked else (value + size * 0.4) * len(self.chart.series) * 1.5
        )
        if needed > room:
            raise DoesNotFit
        self.plot_width = self.random.uniform(needed, min(room, needed * 2.5))
        self.bottom = (size * 1.3 + self.gap + self.look.tick) if self.chart.show_ticks else size * 0.3
        self.turned = 0

    def _measure_height(self) -> None:
        size, chart = self.size, self.chart
        room = self.brush.max_height - self.top - self.bottom - 2 * size
        if self.upright:
            least = max(5 * size, 55.0, len(self.title_up) and self.font.getlength(self.title_up) + size)
            wanted = self.plot_width * self.random.uniform(0.45, 1.0)
        else:
            lines = max(map(len, self.label_lines))
            bars = self._bars_in_slot()
            row = max(lines * size * LINE * 1.1, bars * size * (1.25 if chart.printed else 0.7) / self.thickness)
            least = row * len(chart.labels)
            wanted = least * self.random.uniform(1.0, 1.6)
            if self.title_up:
                least = max(least, self.font.getlength(self.title_up) + size)
        if least > room:
            raise DoesNotFit
        self.plot_height = min(room, max(least, wanted))
        self._make_headroom()

    def _make_headroom(self) -> None:
        """Widens the axis until the printed values, and a legend inside, have room beyond the marks."""
        chart, size, axis = self.chart, self.size, self.axis
        extent = self.plot_height if self.upright else self.plot_width
        need = 0.0
        if chart.printed:
            need = size * 1.5 if self.upright else self._value_width() + size * 0.6
            if chart.stacked:
                need = 0.0
        legend = 0.0
        if self.legend and self.legend.place == "inside":
            legend = self.legend.height + size * 0.8
            if legend > 0.45 * extent:
                raise DoesNotFit
        numbers = [value for row in chart.values for value in row if value is not None]
        if chart.stacked:
            numbers = [chart.total(at) for at in range(len(chart.labels))]
        high, low = max(numbers), min(numbers)
        fixed = high <= 100 and axis.high == 100 and not legend and axis.share(high) + need / extent <= 1
        if not fixed and axis.share(high) + (need + legend) / extent > 1:
            below = need if low < 0 or axis.low > 0 else 0.0
            span = (high - axis.low) / (1 - (need + legend) / extent - below / extent * 0.5)
            axis = replace(axis, high=axis.low + span)
        under = chart.kind == "line" or low < 0
        if chart.printed and under and axis.low != 0 and axis.share(low) * extent < need:
            axis = replace(axis, low=axis.low - axis.span * need / extent)
        self.axis = self._thinned(axis, extent)

    def _thinned(self, axis: Axis, extent: float) -> Axis:
        """Fewer ticks where their numbers would touch."""
        while True:
            texts = [axis.style.show(tick) for tick in axis.ticks]
            need = self.size * 1.3 if self.upright else max(map(self.font.getlength, texts)) + self.size * 0.7
            if extent * axis.step / axis.span >= need:
                return axis
            axis = replace(axis, step=axis.step * 2)
            if len(axis.ticks) < 2:
                raise DoesNotFit

    # Drawing -----------------------------------------------------------------------------------

    def along(self, label: float) -> float:
        """Where a label's slot has its middle."""
        start, end = (self.box[0], self.box[2]) if self.upright else (self.box[1], self.box[3])
        return start + (end - start) * (label + 0.5) / len(self.chart.labels)

    @property
    def slot(self) -> float:
        return self.along(1) - self.along(0)

    def level(self, value: float) -> float:
        left, top, right, bottom = self.box
        share = self.axis.share(value)
        return bottom - share * (bottom - top) if self.upright else left + share * (right - left)

    def _bar_box(self, middle: float, half: float, start: float, end: float) -> Box:
        low, high = sorted((self.level(start), self.level(end)))
        return (middle - half, low, middle + half, high) if self.upright else (low, middle - half, high, middle + half)

    def _color(self, series: int, label: int) -> Color:
        palette = self.look.palette
        color = palette[(label if self.many_colors else series) % len(palette)]
        if abs(luminance(color) - luminance(self.look.plot or self.look.paper)) < 0.07:
            color = mixed(color, self.look.ink, 0.6)
        return mixed(color, self.look.paper, self.look.opacity)

    def _draw_ground(self) -> None:
        look, canvas, box = self.look, self.canvas, self.box
        width, height = canvas.image.size
        if look.name == "panel" and self.head.lines:
            canvas.pen.rectangle(
                (0, 0, width, self.space[1] + self.head.height - 1), fill=mixed(look.ink, look.paper, 0.12)
            )
        if look.border is not None:
            canvas.pen.rectangle((0, 0, width - 1, height - 1), outline=look.border)
        if look.plot is not None:
            canvas.pen.rectangle(box, fill=look.plot)
        grid = look.grid and (self.chart.show_ticks or self.random.random() < 0.2)
        for tick in self.axis.ticks if grid else []:
            at = self.level(tick)
            start, end = ((box[0], at), (box[2], at)) if self.upright else ((at, box[1]), (at, box[3]))
            marks.rule(canvas, start, end, look.grid_color, look.dash)
        if look.grid == "both" and grid and self.chart.kind != "scatter":
            for label in range(len(self.chart.labels)):
                at = self.along(label)
                start, end = ((at, box[1]), (at, box[3])) if self.upright else ((box[0], at), (box[2], at))
                marks.rule(canvas, start, end, look.grid_color, look.dash)
        self._draw_frame()

    def _draw_frame(self) -> None:
        look, (left, top, right, bottom) = self.look, self.box
        sides = look.frame if self.chart.show_ticks or self.random.random() < 0.5 else look.frame[:0]
        if not self.upright:
            sides = sides.replace("b", "l") if sides == "b" else sides
        ends = {"l": (left, top, left, bottom), "b": (left, bottom, right, bottom), "r": (right, top, right, bottom),
                "t": (left, top, right, top)}  # fmt: skip
        for side in sides:
            x0, y0, x1, y1 = ends[side]
            marks.rule(self.canvas, (x0, y0), (x1, y1), look.frame_color)
        if self.axis.low < 0 < self.axis.high or not sides:
            zero = self.level(max(0.0, self.axis.low))
            start, end = ((left, zero), (right, zero)) if self.upright else ((zero, top), (zero, bottom))
            marks.rule(self.canvas, start, end, look.frame_color)

    def _draw_labels(self) -> list[Written]:
        if self.chart.kind == "scatter":
            return []
        written, size, color = [], self.size, self.look.faint
        for at in range(len(self.chart.labels)):
            middle, lines = self.along(at), self.label_lines[at]
            if self.upright and self.turned:
                y = self.box[3] + self.gap + self.look.tick
                x = middle + (size * 0.35 if self.turned == 45 else 0)
                y += size * 0.3 if self.turned == 45 else 0
                written.append(
                    marks.write_turned(self.canvas, (x, y), self.chart.labels[at], self.font, color, self.turned, 1.0)
                )
                continue
            parts = []
            for number, line in enumerate(lines):
                if self.upright:
                    y = self.box[3] + self.gap + self.look.tick + size * (0.8 + LINE * number)
                    parts.append(self.canvas.write(middle, y, line, self.font, color, 0.5))
                else:
                    y = middle + size * (RISE + LINE * (number - (len(lines) - 1) / 2))
                    parts.append(
                        self.canvas.write(self.box[0] - self.gap - self.look.tick, y, line, self.font, color, 1.0)
                    )
            written.append(joined(parts, " "))
        return written

    def _draw_ticks(self) -> list[tuple[float, Written]]:
        left, _, _, bottom = self.box
        reach, size, look = self.look.tick, self.size, self.look
        found: list[tuple[float, Written]] = []
        if not self.chart.show_ticks:
            return found
        for tick in self.axis.ticks:
            at, text = self.level(tick), self.axis.style.show(tick)
            if self.upright:
                marks.rule(self.canvas, (left - reach, at), (left, at), look.frame_color) if reach else None
                x, y, align = left - reach - self.gap, at + size * RISE, 1.0
            else:
                marks.rule(self.canvas, (at, bottom), (at, bottom + reach), look.frame_color) if reach else None
                x, y, align = at, bottom + reach + self.gap + size * 0.8, 0.5
            found.append((tick, self.canvas.write(x, y, text, self.font, look.faint, align)))
        return found

    def _draw_across(self) -> list[tuple[float, Written]]:
        axis = self.chart.across_axis
        if axis is None:
            return []
        left, top, right, bottom = self.box
        found = []
        for tick in axis.ticks:
            x = left + axis.share(tick) * (right - left)
            if self.look.grid == "both":
                marks.rule(self.canvas, (x, top), (x, bottom), self.look.grid_color, self.look.dash)
            if self.look.tick:
                marks.rule(self.canvas, (x, bottom), (x, bottom + self.look.tick), self.look.frame_color)
            y = bottom + self.look.tick + self.gap + self.size * 0.8
            found.append((tick, self.canvas.write(x, y, axis.style.show(tick), self.font, self.look.faint, 0.5)))
        return found

    def _draw_marks(self) -> None:
        kind = self.chart.kind
        if kind in ("line", "area"):
            self._draw_lines()
        elif kind == "scatter":
            self._draw_points()
        elif self.chart.stacked:
            self._draw_stacks()
        else:
            self._draw_bars()

    def _draw_bars(self) -> None:
        chart, count = self.chart, self._bars_in_slot()
        start = max(0.0, self.axis.low)
        width = self.slot * self.thickness / count
        inside = chart.printed and chart.kind != "lollipop" and self.random.random() < 0.25
        gap = width * self.random.choice((0.0, 0.0, 0.06)) if count > 1 else 0.0
        for series, row in enumerate(chart.values):
            for at, value in enumerate(row):
                if value is None:
                    continue
                middle = self.along(at) + (series - (count - 1) / 2) * width
                box = self._bar_box(middle, width / 2 - gap, start, value)
                color = self._color(series, at)
                if chart.kind == "lollipop":
                    self._draw_lollipop(middle, start, value, color)
                else:
                    marks.bar(
                        self.canvas, box, color, edge=self.look.edge, outline=self.look.outline,
                        hatch=series + 1 if self.look.hatch else 0,
                    )  # fmt: skip
                if chart.printed:
                    self.values[series][at] = self._write_at_end(series, at, value, middle, box, color, inside)

    def _draw_lollipop(self, middle: float, start: float, value: float, color: Color) -> None:
        near, far = self.level(start), self.level(value)
        ends = ((middle, near), (middle, far)) if self.upright else ((near, middle), (far, middle))
        marks.rule(self.canvas, *ends, color, width=2)
        marks.marker(self.canvas, *ends[1], max(3.0, self.size * 0.32), color)

    def _write_at_end(
        self, series: int, at: int, value: float, middle: float, box: Box, color: Color, inside: bool
    ) -> Written:
        text, size = self.chart.shown(series, at), self.size
        length = self.font.getlength(text)
        sign = -1 if value < 0 else 1
        far = self.level(value)
        space = size * (0.7 if self.chart.kind == "lollipop" else 0.3)
        thick, long = (box[2] - box[0], box[3] - box[1]) if self.upright else (box[3] - box[1], box[2] - box[0])
        room = thick > length + 2 and long > size * 1.6 if self.upright else thick > size and long > length + size * 0.8
        ink = self.look.ink
        if inside and room and not (self.look.hatch or self.look.outline):
            sign, ink = -sign, readable_on(color)
        if self.upright:
            x, align = middle, 0.5
            y = far - space if sign > 0 else far + space + size * 0.75
        else:
            x, align = far + sign * (space + 1), 0.0 if sign > 0 else 1.0
            y = middle + size * RISE
        if self.look.grid and ink == self.look.ink:
            self._clear_ground(x - align * length, y, text)
        return self.canvas.write(x, y, text, self.font, ink, align)

    def _clear_ground(self, left: float, baseline: float, text: str) -> None:
        """Keeps lines from running through a text that is to be printed there."""
        ground, place = self.look.plot or self.look.paper, (round(left), round(baseline))
        self.canvas.pen.text(place, text, font=self.font, fill=ground, anchor="ls", stroke_width=2, stroke_fill=ground)

    def _draw_stacks(self) -> None:
        chart, half = self.chart, self.slot * self.thickness / 2
        for at in range(len(chart.labels)):
            start = 0.0
            for series, row in enumerate(chart.values):
                value = row[at] or 0.0
                box = self._bar_box(self.along(at), half, start, start + value)
                color = self._color(series, at)
                hatch = series + 1 if self.look.hatch else 0
                marks.bar(self.canvas, box, color, edge=self.look.edge, outline=self.look.outline, hatch=hatch)
                start += value
                if chart.printed:
                    self.values[series][at] = self._write_within(chart.shown(series, at), box, color)

    def _write_within(self, text: str, box: Box, color: Color) -> Written:
        if self.font.getlength(text) + 2 > box[2] - box[0] or self.size * 1.1 > box[3] - box[1] or self.look.hatch:
            raise DoesNotFit
        ink = self.look.ink if self.look.outline else readable_on(color)
        y = (box[1] + box[3]) / 2 + self.size * RISE
        return self.canvas.write((box[0] + box[2]) / 2, y, text, self.font, ink, 0.5)

    def _draw_lines(self) -> None:
        chart, look = self.chart, self.look
        rows = [
            [None if value is None else (self.along(at), self.level(value)) for at, value in enumerate(row)]
            for row in chart.values
        ]
        radius = 0 if self.random.random() < 0.35 else look.line + self.random.choice((1, 1, 2))
        shapes = self.random.choice((MARKERS[:1] * 4, MARKERS))
        # Where there is one colour for all, dashes tell the lines apart.
        self.dashes = [0, 5, 2, 9] if look.hatch or self.random.random() < 0.1 else [0]
        for series, row in enumerate(rows):
            points, color = [point for point in row if point is not None], self._color(series, 0)
            if chart.kind == "area":
                base = self.level(max(0.0, self.axis.low))
                outline = [(points[0][0], base), *points, (points[-1][0], base)]
                marks.polygon(self.canvas, outline, color, self.random.choice((0.3, 0.6, 1.0)))
            marks.polyline(self.canvas, points, color, look.line, self.dashes[series % len(self.dashes)])
            for x, y in points if radius else []:
                marks.marker(self.canvas, x, y, radius, color, shapes[series % 4])
            self.taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
        if chart.printed:
            self._write_along(rows, max(radius, look.line))
        if self.direct:
            self.direct_names = self._write_directly(rows)

    def _write_along(self, rows: list[list[tuple[float, float] | None]], radius: float) -> None:
        for series, row in enumerate(rows):
            for at, point in enumerate(row):
                if point is None:
                    continue
                before, after = (row[at - 1] if at else None), (row[at + 1] if at + 1 < len(row) else None)
                near = [other[1] for other in (before, after) if other is not None]
                peak = not near or point[1] <= sum(near) / len(near)
                above, below = point[1] - radius - self.size * 0.3, point[1] + radius + self.size * 1.05
                # On a slope the text stands on the line's free side.
                slope = 0.0
                if before is not None and after is not None and (before[1] - point[1]) * (point[1] - after[1]) > 0:
                    slope = 0.35 if after[1] < point[1] else -0.35
                places = [(point[0], above, 0.5 + slope), (point[0], below, 0.5 - slope)]
                self.values[series][at] = self._write_free(
                    self.chart.shown(series, at), places if peak else places[::-1]
                )

    def _write_directly(self, rows: list[list[tuple[float, float] | None]]) -> list[Written]:
        written = []
        for series, row in enumerate(rows):
            x, y = row[-1] or (0.0, 0.0)
            color = self._color(series, 0)
            clear = abs(luminance(color) - luminance(self.look.paper)) > 0.45
            ink = color if clear and self.random.random() < 0.8 else self.look.ink
            # Beside the plot: the half slot behind the last point stays empty.
            places = [(x + self.size * 0.5, y + self.size * (RISE + shift), 0.0) for shift in (0, 0.4, -0.4)]
            written.append(self._write_free(self.chart.series[series], places, ink))
        return written

    def _write_free(self, text: str, places: list[tuple[float, float, float]], ink: Color | None = None) -> Written:
        """The text at the first place (x, baseline, align) where it touches no other."""
        length, size = self.font.getlength(text), self.size
        for x, y, align in places:
            left = x - align * length
            box = (left - 1, y - size * 0.8, left + length + 1, y + size * 0.15)
            if (
                marks.crosses(box, self.taken)
                or box[1] < self.space[1] * 0.5
                or y > self.box[3] + 1
                or left < self.box[0] - 1
            ):
                continue
            if left + length > self.canvas.image.width - 2:
                continue
            self.taken.append(box)
            if self.halo:
                self._clear_ground(left, y, text)
            return self.canvas.write(left, y, text, self.font, ink or self.look.ink)
        raise DoesNotFit

    def _draw_points(self) -> None:
        chart, axis = self.chart, self.chart.across_axis
        if axis is None:
            return
        left, _, right, _ = self.box
        radius = max(2.5, self.size * 0.28)
        shape = self.random.choice(MARKERS)
        points = [
            (left + axis.share(x) * (right - left), self.level(y or 0.0))
            for x, y in zip(chart.across, chart.values[0], strict=True)
        ]
        reach = radius + 1
        self.taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in points]
        for at, (x, y) in enumerate(points):
            marks.marker(self.canvas, x, y, radius, self._color(0, at), shape)
        for at, (x, y) in enumerate(points):
            beside, up = reach + 2, self.size * RISE
            places = [(x + beside, y + up, 0.0), (x - beside, y + up, 1.0), (x, y - reach - 2, 0.5)]
            places.append((x, y + reach + self.size * 0.85, 0.5))
            self.labels.append(self._write_free(chart.labels[at], places))

    def _draw_legend(self) -> list[Written]:
        if self.direct:
            return self.direct_names
        if self.legend is None:
            return []
        legend, size, (left, top, right, bottom) = self.legend, self.size, self.box
        width, height = self.canvas.image.size
        if legend.place == "right":
            x, y = (
                width - self.space[2] - legend.width,
                self.random.choice((top, max(top, (top + bottom - legend.height) / 2))),
            )
        elif legend.place == "bottom":
            x, y = (left + right - legend.width) / 2, height - self.space[3] - legend.height
        elif legend.place == "top":
            x, y = (left + right - legend.width) / 2, top - legend.height - size * 0.7
            x = left if self.look.title_align < 0.5 else x
        else:
            x = self.random.choice((left + size * 0.7, right - legend.width - size * 0.7))
            y = top + size * 0.4
        x = max(self.space[0] * 0.5, min(x, width - legend.width - self.space[2] * 0.5))
        if x < 0 or y + legend.height > height + 1:
            raise DoesNotFit
        if self.look.legend_box and legend.place in ("right", "inside"):
            frame = (x - size * 0.4, y - 1, x + legend.width + size * 0.4, y + legend.height + 1)
            self.canvas.pen.rectangle(frame, fill=self.look.paper, outline=mixed(self.look.ink, self.look.paper, 0.3))
        elif legend.place == "inside":
            frame = (x - 2, y, x + legend.width + 2, y + legend.height)
            self.canvas.pen.rectangle(frame, fill=self.look.plot or self.look.paper)
        return legend.draw(self.canvas, x, y, self.look.ink, self._swatch, legend.place in ("bottom", "top"))

    def _swatch(self, series: int, box: Box) -> None:
        color = self._color(series, 0)
        left, top, right, bottom = box
        if self.chart.kind == "line":
            middle = (top + bottom) / 2
            dash = self.dashes[series % len(self.dashes)]
            marks.polyline(self.canvas, [(left, middle), (right, middle)], color, self.look.line, dash)
        elif self.look.swatch == "dot":
            marks.marker(self.canvas, (left + right) / 2, (top + bottom) / 2, (bottom - top) / 2, color)
        else:
            hatch = series + 1 if self.look.hatch else 0
            marks.bar(self.canvas, box, color, edge=self.look.edge, outline=self.look.outline, hatch=hatch)

    def _draw_titles(self) -> dict[str, Written]:
        left, top, right, bottom = self.box
        width, height = self.canvas.image.size
        space, size = self.space, self.size
        start = left if self.look.title_align == 0.0 and self.random.random() < 0.4 else space[0]
        if start + self.head.width > width - 2:
            start = space[0]
        texts = self.head.draw(self.canvas, start, width - space[2], space[1] * 0.9, self.look)
        names = ("value_title", "category_title") if self.upright else ("category_title", "value_title")
        if self.title_up:
            texts[names[0]] = marks.write_turned(
                self.canvas,
                (space[0] + size * 0.7, (top + bottom) / 2),
                self.title_up,
                self.font,
                self.look.ink,
                90,
                0.5,
            )
        if self.title_down:
            under = self.legend.height + size * 0.5 if self.legend and self.legend.place == "bottom" else 0.0
            length = self.font.getlength(self.title_down)
            x = min((left + right) / 2, width - 2 - length / 2)
            if x - length / 2 < 1:
                raise DoesNotFit
            y = height - space[3] - under - size * 0.35
            texts[names[1]] = self.canvas.write(x, y, self.title_down, self.font, self.look.ink, 0.5)
        return texts
