"""Draws pies and donuts with our own renderer: with a legend or names beside the parts, values in or around them."""

from __future__ import annotations

import math

from tessera.nano.pictures import charts_marks as marks
from tessera.nano.pictures.canvas import Brush, Canvas, Color
from tessera.nano.pictures.charts_canvas import LINE, RISE, DoesNotFit, Legend, Type, all_inside, head_of, margins
from tessera.nano.pictures.charts_data import Chart, Drawn
from tessera.nano.pictures.charts_look import Look, mixed, readable_on, told_apart
from tessera.nano.pictures.charts_marks import Box
from tessera.nano.pictures.page import Written

PAIRS = ("{label} {value}", "{label} ({value})", "{label}: {value}", "{label}, {value}", "{label} - {value}")


def paint_round(brush: Brush, chart: Chart, look: Look, type_: Type) -> Drawn:
    return _RoundPainter(brush, chart, look, type_).paint()


class _RoundPainter:
    def __init__(self, brush: Brush, chart: Chart, look: Look, type_: Type) -> None:
        self.brush, self.chart, self.type = brush, chart, type_
        self.look = told_apart(look, len(chart.labels))
        self.random, self.size, self.font = brush.random, type_.size, type_.base
        self.beside = self.random.random() < (0.75 if look.hatch else 0.4)  # names stand beside the parts
        self.inside = self.random.random() < 0.55  # values stand in the parts
        self.pair = self.random.choice(PAIRS)
        self.values = [chart.shown(0, at) if chart.printed else "" for at in range(len(chart.labels))]
        self.hole = 0.0 if chart.kind == "pie" else self.random.uniform(0.45, 0.68)
        if chart.kind == "donut_total":
            self.hole, self.inside = self.random.uniform(0.58, 0.7), False
        self.taken: list[Box] = []
        self.labels: list[Written] = []
        self.shown: list[Written | None] = [None] * len(chart.labels)

    def paint(self) -> Drawn:
        self._measure()
        look, size = self.look, self.size
        space = margins(self.brush, size, self.width, self.height)
        width, height = self.width + space[0] + space[2], self.height + space[1] + space[3]
        if width > self.brush.max_width + 1 or height > self.brush.max_height + 1:
            raise DoesNotFit
        self.canvas = Canvas(width, height, look.paper)
        if look.name == "panel" and self.head.lines:
            band = mixed(look.ink, look.paper, 0.12)
            self.canvas.pen.rectangle((0, 0, width, space[1] + self.head.height - 1), fill=band)
        if look.border is not None:
            right, bottom = self.canvas.image.width - 1, self.canvas.image.height - 1
            self.canvas.pen.rectangle((0, 0, right, bottom), outline=look.border)
        self.centre = (space[0] + self.centre_x, space[1] + self.centre_y)
        self._draw_parts()
        if self.legend:
            self._draw_legend(self.legend, space)
        self._write_values()
        texts = self.head.draw(self.canvas, space[0], width - space[2], space[1] * 0.9, look)
        if self.chart.kind == "donut_total":
            texts["total"] = self._write_total()
        if not all_inside(self.canvas):
            raise DoesNotFit
        colors = [] if look.hatch else [self._color(at) for at in range(len(self.chart.labels))]
        return Drawn(self.canvas.image, self.canvas.glyphs, self.labels, [], [self.shown], texts=texts, colors=colors)

    def _measure(self) -> None:
        size, font, look, random = self.size, self.font, self.look, self.random
        room_x, room_y = self.brush.max_width - 2 * size, self.brush.max_height - 2 * size
        least = max(5.5 * size, 60.0)
        if self.chart.kind == "donut_total":
            total = max(font.getlength(text) for text in (self._total(), "Total"))
            least = max(least, (total + size) / self.hole)
        texts = [self._pair(at) for at in range(len(self.chart.labels))]
        side = rim = 0.0
        if self.beside:
            side = max(map(font.getlength, texts)) + size
            rim = size * 2.2
        elif self.chart.printed and not self.inside:
            side, rim = max(map(font.getlength, self.values)) + size * 0.5, size * 1.6
        self.legend = None
        legend_x = legend_y = 0.0
        if not self.beside:
            place = "bottom" if look.legends[0] in ("bottom", "top") else "right"
            in_legend = self.chart.printed and random.random() < 0.3
            entries = texts if in_legend else list(self.chart.labels)
            if in_legend:
                self.inside, side, rim = False, 0.0, 0.0
            self.values_in_legend = in_legend
            self.legend = Legend(entries, self.type, place, look.swatch, room_x * (0.95 if place == "bottom" else 0.6))
            if place == "right":
                legend_x = self.legend.width + size
            else:
                legend_y = self.legend.height + size * 0.7
        most = min(room_x - 2 * side - legend_x, room_y - 2 * rim - legend_y - size * 2)
        if most < least:
            raise DoesNotFit
        diameter = random.uniform(least, min(most, least * 2.2))
        self.width = max(diameter + 2 * side + legend_x, self.legend.width if self.legend else 0.0)
        self.head = head_of(self.chart, self.type, min(room_x, max(self.width, room_x * 0.8)))
        self.width = max(self.width, self.head.width)
        block = max(diameter + 2 * rim, self.legend.height if legend_x and self.legend else 0.0)
        self.height = self.head.height + size * 0.4 + block + legend_y
        self.radius = diameter / 2
        self.centre_x = (self.width - legend_x) / 2
        self.centre_y = self.head.height + size * 0.4 + block / 2
        self.block = block

    def _pair(self, at: int) -> str:
        label, value = self.chart.labels[at], self.values[at]
        return self.pair.format(label=label, value=value) if value and not (self.beside and self.inside) else label

    def _color(self, at: int) -> Color:
        return self.look.palette[at % len(self.look.palette)]

    def _draw_parts(self) -> None:
        total = math.fsum(value or 0.0 for value in self.chart.values[0])
        start = self.random.choice((0.0, 0.0, 90.0, self.random.uniform(0, 360)))
        self.middles: list[float] = []
        self.spans: list[float] = []
        edge = self.random.choice((self.look.paper, self.look.paper, None))
        if self.look.hatch:
            edge = self.look.ink
        for at, value in enumerate(self.chart.values[0]):
            span = (value or 0.0) / total * 360
            marks.sector(
                self.canvas,
                self.centre,
                self.radius,
                self.radius * self.hole,
                (start, start + span),
                self._color(at),
                edge,
            )
            self.middles.append(math.radians(start + span / 2))
            self.spans.append(span)
            start += span

    def _swatch(self, at: int, box: Box) -> None:
        if self.look.swatch == "dot":
            marks.marker(
                self.canvas, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[3] - box[1]) / 2, self._color(at)
            )
        else:
            marks.bar(self.canvas, box, self._color(at), edge=self.look.edge)

    def _draw_legend(self, legend: Legend, space: tuple[float, float, float, float]) -> None:
        width, height = self.canvas.image.size
        if legend.place == "right":
            x = width - space[2] - legend.width
            y = space[1] + self.centre_y - legend.height / 2
        else:
            x, y = (space[0] + width - space[2] - legend.width) / 2, height - space[3] - legend.height
        written = legend.draw(self.canvas, x, y, self.look.faint, self._swatch, legend.place == "bottom")
        for at, text in enumerate(written):
            self.labels.append(text[: len(self.chart.labels[at])])
            if self.values_in_legend:
                self.shown[at] = self._value_in(text, at)

    def _value_in(self, text: Written, at: int) -> Written:
        """The value's part of a pair, whose label stands before it."""
        before = self.pair.split("{value}")[0].format(label=self.chart.labels[at])
        return text[len(before) : len(before) + len(self.values[at])]

    def _write_values(self) -> None:
        if self.beside:
            for at in range(len(self.chart.labels)):
                text = self._write_at_rim(at, self._pair(at))
                self.labels.append(text[: len(self.chart.labels[at])])
                if self.chart.printed and not self.inside:
                    self.shown[at] = self._value_in(text, at)
        if not self.chart.printed or self.shown[0] is not None:
            return
        for at, value in enumerate(self.values):
            self.shown[at] = self._write_inside(at, value) if self.inside else self._write_at_rim(at, value)

    def _write_inside(self, at: int, text: str) -> Written:
        length, size = self.font.getlength(text), self.size
        share = (1 + self.hole) / 2 if self.hole else 0.66
        radius = self.radius * share
        chord = 2 * radius * math.sin(math.radians(min(self.spans[at], 170) / 2))
        deep = self.radius * (1 - self.hole)
        level = abs(math.sin(self.middles[at]))  # 1 at the sides, where the ring runs up and down
        across, along = (size, length) if level < 0.7 else (length, size)
        if chord < along + 3 or deep < across + 4:
            raise DoesNotFit
        x = self.centre[0] + radius * math.sin(self.middles[at])
        y = self.centre[1] - radius * math.cos(self.middles[at])
        return self.canvas.write(x, y + size * RISE, text, self.font, readable_on(self._color(at)), 0.5)

    def _write_at_rim(self, at: int, text: str) -> Written:
        size, length = self.size, self.font.getlength(text)
        radius = self.radius + size * 0.7
        sine, cosine = math.sin(self.middles[at]), math.cos(self.middles[at])
        x, y = self.centre[0] + radius * sine, self.centre[1] - radius * cosine
        left = x - length * (0.5 - 0.5 * max(-1.0, min(1.0, sine * 1.6)))
        y += size * RISE - size * 0.15 * cosine
        box = (left - 2, y - size * 0.85, left + length + 2, y + size * 0.25)
        if marks.crosses(box, self.taken) or left < 1 or left + length > self.canvas.image.width - 1:
            raise DoesNotFit
        self.taken.append(box)
        return self.canvas.write(left, y, text, self.font, self.look.ink)

    def _total(self) -> str:
        return self.chart.style.show(math.fsum(value or 0.0 for value in self.chart.values[0]))

    def _write_total(self) -> Written:
        x, y = self.centre
        if self.random.random() < 0.5:
            self.canvas.write(x, y + self.size * (RISE + LINE * 0.55), "Total", self.font, self.look.faint, 0.5)
            y -= self.size * LINE * 0.45
        return self.canvas.write(x, y + self.size * RISE, self._total(), self.font, self.look.ink, 0.5)
