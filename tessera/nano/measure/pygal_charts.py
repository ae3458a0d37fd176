"""Charts by pygal, drawn as SVG and turned into pixels by Cairo."""

from __future__ import annotations

import io
from collections.abc import Iterator
from random import Random

from PIL import Image

from tessera.errors import UsageError
from tessera.nano.measure.asked import TITLES, Drawing, chart_trials, labels_of, short_values
from tessera.nano.measure.trial import Trial, in_turns

KINDS = ("Bar", "HorizontalBar", "Pie")  # its lines run out of the picture with their last value
THINGS = {"Bar": "bar", "HorizontalBar": "bar", "Pie": "slice"}
LOWEST = 20  # of 100: below, a slice is printed without its value
STYLES = ("DefaultStyle", "CleanStyle", "LightStyle", "RedBlueStyle", "SolidColorStyle", "LightColorizedStyle")
QUESTIONS = 4


def pygal_trials(pictures: int) -> Iterator[Trial]:
    for number in range(pictures):
        random = Random(f"pygal {number}")
        yield from in_turns(_one(random, KINDS[number % len(KINDS)], STYLES[number % len(STYLES)]), QUESTIONS)


def _one(random: Random, kind: str, style_name: str) -> list[Trial]:
    try:
        import cairosvg  # type: ignore[import-untyped]
        import pygal  # type: ignore[import-untyped]
        import pygal.style  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("measuring needs pygal and cairosvg; install: pip install 'tessera[nano]'") from error
    labels = labels_of(random)
    values = dict(zip(labels, short_values(random, len(labels), LOWEST), strict=True))
    title = random.choice(TITLES) if random.random() < 0.5 else None
    size = random.uniform(11, 18)
    sizes = {
        f"{part}_font_size": size
        for part in ("label", "major_label", "value", "value_label", "legend", "title", "tooltip")
    }
    style = getattr(pygal.style, style_name)(font_family="sans-serif", value_colors=("#000",) * 12, **sizes)
    chart = getattr(pygal, kind)(
        style=style, width=max(300, 80 * len(labels)) * size / 12, height=random.uniform(220, 320) * size / 14,
        print_values=True, show_legend=kind == "Pie", title=title, js=(), margin=12, truncate_legend=-1,
        legend_box_size=size,
    )  # fmt: skip
    numbers = [float(text.replace(",", "").strip("%")) for text in values.values()]
    shown = dict(zip(numbers, values.values(), strict=True))
    chart.value_formatter = lambda value: shown.get(value, f"{value:g}")
    if kind == "Pie":
        for label, number in zip(labels, numbers, strict=True):
            chart.add(label, number)
    else:
        chart.x_labels = labels
        chart.add("", numbers)
    png = cairosvg.svg2png(chart.render(is_unicode=True).encode(), background_color="white")
    drawing = Drawing(Image.open(io.BytesIO(png)).convert("RGB"), "pygal", size)
    return chart_trials(random, drawing, values, title, THINGS[kind])
