"""Charts of every usual kind with several questions about each, drawn by our own renderer.

Whatever does not fit is made simpler until it does: smaller type, fewer categories, no titles, values
read from the axis instead of printed.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.errors import UsageError
from tessera.nano.pictures import charts_data
from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush
from tessera.nano.pictures.charts_canvas import DoesNotFit, choose_type, paint_on_axes
from tessera.nano.pictures.charts_data import Chart
from tessera.nano.pictures.charts_look import Look, choose_look
from tessera.nano.pictures.charts_questions import ask
from tessera.nano.pictures.charts_round import paint_round
from tessera.nano.pictures.page import Page

STEPS, CHARTS = 24, 5  # of making one chart simpler, before another is tried


def draw_chart(brush: Brush) -> Page:
    """One chart with 3 to 8 questions."""
    for _ in range(CHARTS):
        size, chart, look = choose(brush)
        paint = paint_round if chart.round else paint_on_axes
        for step in range(STEPS):
            try:
                drawn = paint(brush, chart, look, choose_type(brush, look, size))
            except DoesNotFit:
                size, chart = simpler(brush, size, chart, step)
                continue
            return Page((drawn.image,), tuple(drawn.glyphs), tuple(ask(brush.random, chart, drawn)))
    raise UsageError(
        f"no chart fits {brush.max_width}x{brush.max_height} pixels with type of {SMALLEST_TYPE:g}; give it more room."
    )


def choose(brush: Brush) -> tuple[float, Chart, Look]:
    """A type size, what is shown, and how it looks."""
    unseen = brush.style.unseen_layouts
    panel = unseen and brush.chance(0.25)
    largest = max(SMALLEST_TYPE, min(34.0, min(brush.max_width, brush.max_height) / 13))
    size = brush.size(largest=largest)
    room = brush.max_width / (0.55 * size)
    return size, charts_data.invent(brush.random, unseen, room, dark=panel), choose_look(brush.random, panel)


def simpler(brush: Brush, size: float, chart: Chart, step: int) -> tuple[float, Chart]:
    """A step towards a chart that fits."""
    if chart.subtitle:
        chart = replace(chart, subtitle="")
    if step >= 2 and size > SMALLEST_TYPE:
        size = max(SMALLEST_TYPE, size * 0.88)
    if step % 3 == 1 and len(chart.labels) > 3:
        chart = chart.without_last()
    if step % 4 == 3:
        chart = replace(chart, category_title="") if chart.category_title else replace(chart, value_title="", unit="")
    if step == 5 and len(chart.series) > 2:
        chart = replace(chart, series=chart.series[:2], values=chart.values[:2])
    if step == 8 and chart.printed and not chart.round:
        chart = charts_data.read_from_axis(chart)
    if step == 12:
        chart = replace(chart, title=" ".join(chart.title.split()[:2]))
    if step > 14:
        chart = replace(chart, title="")
    if step > 16 and len(chart.labels) > 2:
        chart = chart.without_last()
    if step > 20:
        short = tuple(label[: max(2, 20 - step // 2)].strip() for label in chart.labels)
        if len(set(short)) == len(short):
            chart = replace(chart, labels=short)
    return size, chart
