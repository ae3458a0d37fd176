"""Draws charts with Vega-Lite, printed as PDF: real axes, legends and themes of another program.

The texts are found in the PDF in the order in which Vega prints them; a chart whose print differs,
or whose texts touch, is made simpler and printed again. A page takes about 50 ms, so that these
pages are better drawn ahead.
"""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tessera.errors import UsageError
from tessera.nano.pictures import charts_data
from tessera.nano.pictures.canvas import LARGEST_TYPE, SMALLEST_TYPE, Brush, Color
from tessera.nano.pictures.charts import simpler
from tessera.nano.pictures.charts_canvas import DoesNotFit, broken
from tessera.nano.pictures.charts_data import Axis, Drawn
from tessera.nano.pictures.charts_look import Look, choose_look, readable_on, told_apart
from tessera.nano.pictures.charts_questions import ask
from tessera.nano.pictures.fonts import Face
from tessera.nano.pictures.page import Glyph, Page, Written
from tessera.nano.pictures.pdf import locate_all, read_pdf

THEMES = ("excel", "fivethirtyeight", "ggplot2", "googlecharts", "latimes", "powerbi", "quartz", "urbaninstitute",
          "vox", "carbonwhite", "carbong10")  # fmt: skip
UNSEEN_THEMES = ("dark", "carbong90", "carbong100")
MOST_PRINTS = 12
Spec = dict[str, Any]  # a part of a Vega-Lite specification


def draw_vega_chart(brush: Brush) -> Page:
    """One chart with 3 to 8 questions; the vl-convert-python package prints it."""
    for _ in range(MOST_PRINTS):
        job = _Job(brush)
        for step in range(MOST_PRINTS):
            try:
                drawn = job.draw()
            except DoesNotFit:
                job.simplify(step)
                continue
            return Page((drawn.image,), tuple(drawn.glyphs), tuple(ask(brush.random, job.chart, drawn)))
    raise UsageError(
        f"no chart by Vega-Lite fits {brush.max_width}x{brush.max_height} pixels; give it more room, or other faces."
    )


@functools.cache
def _register(folder: Path) -> None:
    import vl_convert

    vl_convert.register_font_directory(str(folder))


@functools.cache
def _family(path: Path | None) -> str:
    """The name by which Vega knows a font file's family."""
    if path is None:
        return "sans-serif"
    _register(path.parent)
    return Face("", path, "text").font(12).getname()[0] or "sans-serif"


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


class _Job:
    """One chart on its way through the printer."""

    def __init__(self, brush: Brush) -> None:
        self.brush, random = brush, brush.random
        self.random: Random = random
        unseen = brush.style.unseen_layouts
        dark = unseen and random.random() < 0.5
        largest = max(SMALLEST_TYPE, min(LARGEST_TYPE, min(brush.max_width, brush.max_height) / 14))
        self.size = float(brush.size(largest=largest))
        room = brush.max_width / (0.6 * self.size)
        self.chart = charts_data.invent(random, unseen, room, dark)
        if self.chart.kind in ("line", "area") and self.chart.printed:
            self.chart = charts_data.read_from_axis(self.chart)  # Vega does not move values out of a line's way
        self.theme: Any = random.choice(UNSEEN_THEMES if dark else THEMES) if dark or random.random() < 0.55 else None
        self.look: Look = told_apart(
            choose_look(random), max(len(self.chart.series), len(self.chart.labels) * self.chart.round)
        )
        self.face = brush.face()
        self.width_share, self.height_share = random.uniform(0.45, 0.95), random.uniform(0.4, 0.9)
        self.turned = random.choice((0, 0, 0, -45, -90))
        self.legend = random.choice(("right", "right", "bottom", "top"))
        self.many_colors = self.chart.kind in ("bar", "hbar", "lollipop") and random.random() < 0.2
        self.grid = random.random() < 0.7
        self.thickness = random.uniform(0.1, 0.5)
        self.hole = random.uniform(0.45, 0.65)
        self.too_large = False  # the last print was larger than the picture may be
        self.padding = random.randint(4, 30) if random.random() < 0.3 else random.randint(3, 8)

    def simplify(self, step: int) -> None:
        self.size, self.chart = simpler(self.brush, self.size, self.chart, step)
        factor = 0.88 if self.too_large else 1.1
        self.width_share = min(0.95, max(0.3, self.width_share * factor))
        self.height_share = min(0.95, max(0.3, self.height_share * factor))
        if step % 3 == 0:
            self.turned = -90 if self.turned == -45 else -45
        elif step % 3 == 1:
            self.face = self.brush.face()
        if step > 3:
            self.turned = -90

    # Printing ----------------------------------------------------------------------------------

    def draw(self) -> Drawn:
        import vl_convert

        self.too_large = False
        spec = self.spec()
        data = vl_convert.vegalite_to_pdf(spec, theme=self.theme)
        image, glyphs = read_pdf(data, 1.0)
        self.too_large = image.width > self.brush.max_width or image.height > self.brush.max_height
        if self.too_large:
            raise DoesNotFit
        return self.found(image, glyphs)

    @property
    def plot(self) -> tuple[int, int]:
        width = self.brush.max_width * self.width_share - 4 * self.size
        height = self.brush.max_height * self.height_share - 4 * self.size
        if self.chart.kind in ("hbar", "hgrouped", "hstacked"):
            rows = len(self.chart.labels) * (len(self.chart.series) if self.chart.kind == "hgrouped" else 1)
            height = max(
                height * 0.6, rows * self.size * (1.0 if self.chart.kind == "hgrouped" else 0.8) / (1 - self.thickness)
            )
        elif self.chart.printed and not self.chart.round:
            bars = len(self.chart.labels) * (len(self.chart.series) if self.chart.kind == "grouped" else 1)
            texts = [row["text"] for row in self.rows()]
            width = max(
                width, bars * (max(map(self.face.font(round(self.size)).getlength, texts)) + 3) / (1 - self.thickness)
            )
        return max(60, round(width), round(6 * self.size)), max(50, round(height), round(5 * self.size))

    def spec(self) -> Spec:
        chart = self.chart
        width, height = self.plot
        if chart.round:
            width = height = min(width, height)
        spec: Spec = {"width": width, "height": height, "padding": self.padding, "config": self.config()}
        if self.theme is None:
            spec["background"] = _css(self.look.paper)
        if chart.title:
            title: Spec = {"text": self.title_lines(chart.title, 1.25)}
            if chart.subtitle:
                title["subtitle"] = self.title_lines(chart.subtitle, 1.0)
            spec["title"] = title
        spec["data"] = {"values": self.rows()}
        return spec | (self.round_spec(min(width, height)) if chart.round else self.axes_spec())

    def title_lines(self, text: str, ratio: float) -> list[str]:
        return broken(text, self.face.font(round(self.size * ratio)), self.brush.max_width * 0.85)

    def config(self) -> Spec:
        family, size = _family(self.face.path), self.size
        config: Spec = {
            "font": family,
            "axis": {"labelFontSize": size, "titleFontSize": size, "labelFont": family, "titleFont": family,
                     "labelLimit": 0, "titleLimit": 0, "grid": self.grid},
            "legend": {"labelFontSize": size, "labelFont": family, "labelLimit": 0, "orient": self.legend,
                       "title": None},
            "title": {"fontSize": round(size * 1.25), "subtitleFontSize": size, "font": family, "subtitleFont": family,
                      "limit": 0},
            "text": {"font": family, "fontSize": size},
        }  # fmt: skip
        if self.theme is None:
            ink, faint = _css(self.look.ink), _css(self.look.faint)
            config["axis"] |= {"labelColor": faint, "titleColor": ink, "gridColor": _css(self.look.grid_color)}
            config["legend"] |= {"labelColor": ink}
            config["title"] |= {"color": ink, "subtitleColor": faint, "anchor": self.random.choice(("start", "middle"))}
            config["text"] |= {"color": ink}
            config["view"] = {"fill": _css(self.look.plot)} if self.look.plot else {}
        if self.theme is None or self.chart.stacked:
            config["range"] = {"category": [_css(color) for color in self.look.palette]}
        return config

    def rows(self) -> list[Spec]:
        chart = self.chart
        return [
            {"label": label, "value": chart.values[series][at], "series": name, "text": chart.shown(series, at),
             "at": at, "order": series, "across": chart.across[at] if chart.across else 0,
             "ink": _css(readable_on(self.look.palette[series % len(self.look.palette)]))}
            for series, name in enumerate(chart.series)
            for at, label in enumerate(chart.labels)
            if chart.values[series][at] is not None
        ]  # fmt: skip

    # Specifications ----------------------------------------------------------------------------

    def number_axis(self, axis: Axis, title: str, show: bool = True) -> Spec:
        ticks = axis.ticks
        while len(ticks) * self.size * 1.5 > min(self.plot) and len(ticks) > 2:
            ticks = ticks[::2]
        texts = [axis.style.show(tick) for tick in ticks]
        shown: Spec = {"values": ticks, "labelExpr": f"{texts}[indexof({ticks}, datum.value)]", "title": title or None,
                       "labelOverlap": False, "tickCount": len(ticks)}  # fmt: skip
        if not show:
            shown |= {"labels": False, "ticks": False, "grid": False, "domain": False}
        return {"type": "quantitative", "axis": shown, "stack": "zero" if self.chart.stacked else None,
                "scale": {"domain": [axis.low, axis.high * (1.0 if self.chart.stacked else 1.12)], "nice": False,
                          "zero": False}}  # fmt: skip

    def category_axis(self, title: str) -> Spec:
        axis: Spec = {"title": title or None, "labelOverlap": False, "grid": False}
        axis["labelAngle"] = 0 if self.chart.lying else self.turned
        return {"field": "label", "type": "nominal", "sort": None, "axis": axis}

    def axes_spec(self) -> Spec:
        chart = self.chart
        if chart.axis is None:
            raise DoesNotFit
        if chart.kind == "scatter":
            return self.scatter_spec(chart.axis)
        value = {"field": "value", **self.number_axis(chart.axis, chart.value_title, chart.show_ticks)}
        category = self.category_axis(chart.category_title)
        if chart.kind not in ("line", "area", "lollipop"):
            category["scale"] = {"paddingInner": self.thickness, "paddingOuter": self.thickness / 2}
        encoding: Spec = {"y": category, "x": value} if chart.lying else {"x": category, "y": value}
        if chart.kind in ("grouped", "hgrouped"):
            encoding["yOffset" if chart.lying else "xOffset"] = {"field": "series", "sort": None}
        layers = [*self.marks(encoding)]
        if chart.printed:
            layers.append(self.value_texts())
        # The printed values of a stack have colours of their own, which no legend names.
        resolve = {"resolve": {"scale": {"color": "independent"}}} if chart.stacked and chart.printed else {}
        return {"encoding": encoding, "layer": layers} | resolve

    def coloring(self) -> Spec:
        chart = self.chart
        if len(chart.series) > 1:
            return {"color": {"field": "series", "type": "nominal", "sort": None},
                    "order": {"field": "order"}}  # fmt: skip
        if chart.series[0]:
            return {"color": {"field": "series", "type": "nominal"}}
        if self.many_colors:
            return {"color": {"field": "label", "type": "nominal", "sort": None, "legend": None}}
        return {} if self.theme else {"color": {"value": _css(self.look.palette[0])}}

    def marks(self, encoding: Spec) -> list[Spec]:
        kind, coloring = self.chart.kind, self.coloring()
        coloring_only = {"color": coloring["color"]} if "color" in coloring else {}
        if kind == "line":
            point = self.random.random() < 0.6
            return [{"mark": {"type": "line", "point": point}, "encoding": coloring_only}]
        if kind == "area":
            return [
                {
                    "mark": {"type": "area", "line": True, "opacity": self.random.choice((0.4, 1.0))},
                    "encoding": coloring_only,
                }
            ]
        if kind == "lollipop":
            return [
                {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": coloring_only},
                {"mark": {"type": "circle", "size": self.size * 7, "opacity": 1}, "encoding": coloring_only},
            ]
        return [{"mark": {"type": "bar"}, "encoding": coloring}]

    def value_texts(self) -> Spec:
        chart, away = self.chart, self.size * (1.0 if self.chart.kind == "lollipop" else 0.65)
        if chart.stacked:
            axis = "x" if chart.lying else "y"
            middle: Spec = {"field": "value", "type": "quantitative", "stack": "zero", "bandPosition": 0.5}
            encoding: Spec = {"text": {"field": "text"}, axis: middle, "detail": {"field": "series"},
                              "color": {"field": "ink", "scale": None, "legend": None},
                              "order": {"field": "order"}}  # fmt: skip
            return {
                "mark": {"type": "text", "baseline": "middle", "align": "center"},
                "encoding": encoding,
            }
        below = {"expr": f"datum.value < 0 ? {away} : {-away}"}
        mark: Spec = {"type": "text", "baseline": "middle", "align": "center", "dy": below}
        if chart.lying:
            space = away * 0.8
            mark = {"type": "text", "baseline": "middle", "dx": {"expr": f"datum.value < 0 ? {-space} : {space}"},
                    "align": {"expr": "datum.value < 0 ? 'right' : 'left'"}}  # fmt: skip
        return {"mark": mark, "encoding": {"text": {"field": "text"}}}

    def scatter_spec(self, axis: Axis) -> Spec:
        chart = self.chart
        if chart.across_axis is None:
            raise DoesNotFit
        across = {"field": "across", **self.number_axis(chart.across_axis, chart.category_title)}
        up = {"field": "value", **self.number_axis(axis, chart.value_title)}
        shape = self.random.choice(("circle", "square", "diamond", "triangle"))
        point: Spec = {"type": "point", "filled": True, "shape": shape, "size": self.size * 4, "opacity": 1}
        text: Spec = {"type": "text", "align": "center", "baseline": "bottom", "dy": -self.size * 0.4}
        return {
            "encoding": {"x": across, "y": up},
            "layer": [
                {"mark": point, "encoding": self.coloring()},
                {"mark": text, "encoding": {"text": {"field": "label"}}},
            ],
        }

    def round_spec(self, diameter: int) -> Spec:
        chart, random = self.chart, self.random
        longest = max(map(len, (row["text"] for row in self.rows())))
        away = max(self.size * 0.95, 0.31 * self.size * longest + 2)  # from the rim to the middle of a value
        outer = diameter / 2 - (2 * away if chart.printed else 2)
        inner = 0.0 if chart.kind == "pie" else outer * self.hole
        if outer < 3.2 * self.size or (
            chart.kind == "donut_total" and inner < 0.35 * self.size * len(self.total_text())
        ):
            raise DoesNotFit
        encoding: Spec = {
            "theta": {"field": "value", "type": "quantitative", "stack": True},
            "color": {"field": "label", "type": "nominal", "sort": None},
            "order": {"field": "at"},
        }
        arc: Spec = {
            "type": "arc",
            "outerRadius": outer,
            "innerRadius": inner,
            "stroke": random.choice(("white", None)),
        }
        layers: list[Spec] = [{"mark": arc}]
        if chart.printed:
            text: Spec = {"type": "text", "radius": outer + away}
            layers.append(
                {"mark": text, "encoding": {"text": {"field": "text"}, "color": {"value": self.text_color()}}}
            )
        if chart.kind == "donut_total":
            total = {"type": "text", "radius": 0, "text": self.total_text(), "color": self.text_color(), "theta": 0}
            layers.append(
                {"data": {"values": [{}]}, "mark": total, "encoding": {"theta": None, "color": None, "order": None}}
            )
        return {"encoding": encoding, "layer": layers}

    def total_text(self) -> str:
        return self.chart.style.show(math.fsum(value or 0.0 for value in self.chart.values[0]))

    def text_color(self) -> str:
        if self.theme is not None:
            return "white" if self.theme in UNSEEN_THEMES else "black"
        return _css(self.look.ink)

    # Reading back ------------------------------------------------------------------------------

    def found(self, image: Image.Image, glyphs: list[Glyph]) -> Drawn:
        """Every text of the chart, in the order in which Vega prints: axes, marks, legend, title."""
        chart = self.chart
        across, up = self.printed_axes()
        texts = [*across, *up]
        cells = [
            (series, at) for series, row in enumerate(chart.values) for at in range(len(row)) if row[at] is not None
        ]
        marks = [chart.shown(*cell) for cell in cells] if chart.printed else []
        if chart.kind == "scatter":
            marks = list(chart.labels)
        total = [self.total_text()] if chart.kind == "donut_total" else []
        legend = list(chart.labels) if chart.round else [name for name in chart.series if name]
        head = [chart.title, chart.subtitle] if chart.title else []
        groups = [texts, marks, total, legend, [text for text in head if text]]
        try:
            written = iter(locate_all(glyphs, list(itertools.chain(*groups))))
        except UsageError as error:
            raise DoesNotFit from error
        pieces = [list(itertools.islice(written, len(group))) for group in groups]
        if (
            (chart.kind == "scatter" and hiding(glyphs, pieces[1]))
            or touching(glyphs, list(itertools.chain(*pieces)))
            or not all(2 < glyph.x < image.width - 2 and 2 < glyph.y < image.height - 2 for glyph in glyphs)
        ):
            raise DoesNotFit
        return self.sorted_out(image, glyphs, pieces, cells, len(across))

    def printed_axes(self) -> tuple[list[str], list[str]]:
        """What the axis across and the axis up print."""
        chart = self.chart
        if chart.round or chart.axis is None:
            return [], []

        def ticks(axis: Axis) -> list[str]:
            shown = self.number_axis(axis, "")["axis"]["values"]
            return [axis.style.show(tick) for tick in shown]

        values = [*(ticks(chart.axis) if chart.show_ticks else []), *([chart.value_title] if chart.value_title else [])]
        first = ticks(chart.across_axis) if chart.across_axis else list(chart.labels)
        names = [*first, *([chart.category_title] if chart.category_title else [])]
        return (values, names) if chart.lying else (names, values)

    def sorted_out(
        self,
        image: Image.Image,
        glyphs: list[Glyph],
        pieces: list[list[Written]],
        cells: list[tuple[int, int]],
        cut: int,
    ) -> Drawn:
        chart, (axes, marks, total, legend, head) = self.chart, pieces
        values: list[list[Written | None]] = [[None] * len(chart.labels) for _ in chart.series]
        texts = dict(zip(("title", "subtitle"), head, strict=False))
        names, numbers = (axes[cut:], axes[:cut]) if chart.lying else (axes[:cut], axes[cut:])
        if chart.category_title and names:
            texts["category_title"] = names.pop()
        if chart.value_title and numbers:
            texts["value_title"] = numbers.pop()
        if total:
            texts["total"] = total[0]
        several = chart.labels if chart.round else chart.series if len(chart.series) > 1 else ()
        drawn = Drawn(image, glyphs, names, [] if chart.round else legend, values, texts=texts)
        if self.theme is None:
            drawn.colors = list(self.look.palette[: len(several)])
        if chart.round:
            drawn.labels = legend
        elif chart.axis is not None and chart.show_ticks:
            drawn.ticks = list(zip(self.number_axis(chart.axis, "")["axis"]["values"], numbers, strict=True))
        if chart.kind == "scatter" and chart.across_axis is not None:
            drawn.across_ticks = list(
                zip(self.number_axis(chart.across_axis, "")["axis"]["values"], names, strict=True)
            )
            drawn.labels = marks
        elif chart.printed:
            for (series, at), written in zip(cells, marks, strict=True):
                values[series][at] = written
        return drawn


def touching(glyphs: list[Glyph], texts: list[Written]) -> bool:
    """Whether characters of two texts lie as close as those of one text."""
    owners = {at: number for number, text in enumerate(texts) for at in text.glyphs if at is not None}
    placed = sorted(owners, key=lambda at: glyphs[at].x)
    for number, one in enumerate(placed):
        for other in placed[number + 1 :]:
            near = 0.8 * max(glyphs[one].size, glyphs[other].size)
            across = glyphs[other].x - glyphs[one].x
            if across > LARGEST_TYPE:
                break
            close = across < near and abs(glyphs[one].y - glyphs[other].y) < near
            if close and owners[one] != owners[other]:
                return True
    return False


def hiding(glyphs: list[Glyph], labels: list[Written]) -> bool:
    """Whether a point, which lies under the middle of its label, is under another point's label."""
    for label in labels:
        own = [glyphs[at] for at in label.glyphs if at is not None]
        x, y = sum(glyph.x for glyph in own) / len(own), own[0].y + own[0].size
        for other in labels:
            if other is not label and any(
                math.hypot(glyphs[at].x - x, glyphs[at].y - y) < 0.9 * own[0].size
                for at in other.glyphs
                if at is not None
            ):
                return True
    return False
