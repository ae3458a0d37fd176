"""Charts by matplotlib, in several of its own styles: what most people's charts are drawn with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from random import Random
from typing import Any

from PIL import Image

from tessera.errors import UsageError
from tessera.nano.measure.asked import TITLES, Drawing, chart_trials, labels_of, short_values
from tessera.nano.measure.trial import Trial, in_turns

STYLES = (
    "default", "classic", "ggplot", "bmh", "fivethirtyeight", "grayscale", "dark_background", "seaborn-v0_8-whitegrid",
    "seaborn-v0_8-pastel", "Solarize_Light2", "tableau-colorblind10",
)  # fmt: skip
KINDS = ("bar", "barh", "line", "pie", "bar", "table")
THINGS = {"bar": "bar", "barh": "bar", "line": "point", "pie": "slice", "table": "row"}
PRINTED_SHARE = 0.75  # of charts; the others are read from their axis
DPI = 100
QUESTIONS = 4


def plot_trials(pictures: int) -> Iterator[Trial]:
    for number in range(pictures):
        random = Random(f"matplotlib {number}")
        yield from in_turns(_one(random, KINDS[number % len(KINDS)], STYLES[number % len(STYLES)]), QUESTIONS)


def _one(random: Random, kind: str, style: str) -> list[Trial]:
    labels = labels_of(random)
    values = dict(zip(labels, short_values(random, len(labels)), strict=True))
    printed = kind in ("pie", "table") or random.random() < PRINTED_SHARE
    title = random.choice(TITLES) if random.random() < 0.5 else None
    points = random.uniform(7, 12)
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError("measuring needs matplotlib; install it with: pip install 'tessera[nano]'") from error
    with pyplot.style.context(["default"] if style == "default" else ["default", style]):
        pyplot.rcParams.update({"font.size": points, "axes.titlesize": points * 1.2})
        for name in ("xtick.labelsize", "ytick.labelsize", "axes.labelsize", "legend.fontsize"):
            pyplot.rcParams[name] = points
        size = (
            max(2.4, 0.75 * len(labels)) * points / 9 * random.uniform(0.95, 1.3),
            random.uniform(1.9, 3.2) * points / 9,
        )
        figure, axes = pyplot.subplots(figsize=size, dpi=DPI, layout="constrained")
        _paint(axes, random, kind, values, printed)
        if title:
            axes.set_title(title)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        pyplot.close(figure)
    drawing = Drawing(Image.open(file).convert("RGB"), "matplotlib", points * DPI / 72)
    return chart_trials(random, drawing, values, title, THINGS[kind], printed)


def _paint(axes: Any, random: Random, kind: str, values: dict[str, str], printed: bool) -> None:
    labels, texts = list(values), list(values.values())
    numbers = [float(text.replace(",", "").strip("%")) for text in texts]
    if kind == "bar":
        bars = axes.bar(labels, numbers, width=random.uniform(0.4, 0.85))
        if printed:
            axes.bar_label(bars, texts, padding=2)
            axes.margins(y=0.15)
    elif kind == "barh":
        bars = axes.barh(labels, numbers, height=random.uniform(0.4, 0.85))
        if printed:
            axes.bar_label(bars, texts, padding=3)
            axes.margins(x=0.22)
    elif kind == "line":
        axes.plot(labels, numbers, marker="o")
        axes.margins(x=0.12, y=0.22)
        if printed:
            for number, (value, text) in enumerate(zip(numbers, texts, strict=True)):
                axes.annotate(text, (number, value), (0, 5), textcoords="offset points", ha="center")
    elif kind == "pie":
        names = [f"{label}: {text}" for label, text in values.items()]
        axes.pie(numbers, labels=names, startangle=random.uniform(0, 360))
    else:
        axes.axis("off")
        table = axes.table(list(map(list, values.items())), colLabels=["Name", "Value"], loc="center")
        table.auto_set_font_size(False)
        table.scale(1, 1.3)
