"""What a chart shows, before anything is drawn: labels, series, numbers, axes and titles.

Numbers that are printed are kept as the printed text says them. Numbers that must be read from an
axis are multiples of a tenth of the tick step, since nobody reads finer than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random

from PIL import Image

from tessera.nano.pictures import words
from tessera.nano.pictures.canvas import Color
from tessera.nano.pictures.page import Glyph, Written

SEEN_KINDS = {
    "bar": 0.23, "hbar": 0.15, "grouped": 0.12, "stacked": 0.08, "hstacked": 0.04, "line": 0.16, "area": 0.04,
    "scatter": 0.06, "pie": 0.08, "donut": 0.04,
}  # fmt: skip
UNSEEN_KINDS = {"lollipop": 0.25, "donut_total": 0.25, "hgrouped": 0.25}  # the rest: a seen kind in the dark panel
LYING = frozenset(("hbar", "hstacked", "hgrouped"))
ROUND = frozenset(("pie", "donut", "donut_total"))
STACKED = frozenset(("stacked", "hstacked"))
SEVERAL = frozenset(("grouped", "hgrouped", "stacked", "hstacked"))
MAY_FALL_BELOW_ZERO = frozenset(("bar", "hbar", "line", "lollipop", "grouped"))
SERIES_PAIRS = (
    ("Actual", "Budget"), ("Plan", "Actual"), ("Male", "Female"), ("Men", "Women"), ("Online", "Store"),
    ("This year", "Last year"), ("Before", "After"), ("Income", "Expenses"), ("Imports", "Exports"),
    ("Target", "Actual"),
    ("Yes", "No"), ("Control", "Treated"), ("Domestic", "Foreign"), ("Gross", "Net"), ("Team A", "Team B"),
    ("Train", "Test"), ("Min", "Max"), ("Baseline", "Ours"), ("Q1", "Q2"), ("Morning", "Evening"),
)  # fmt: skip
SERIES_TRIPLES = (
    ("Low", "Medium", "High"), ("Gold", "Silver", "Bronze"), ("Agree", "Neutral", "Disagree"), ("A", "B", "C"),
    ("Small", "Medium", "Large"), ("Product A", "Product B", "Product C"), ("North", "Central", "South"),
    ("Series 1", "Series 2", "Series 3"), ("Coal", "Gas", "Wind"), ("Desktop", "Mobile", "Tablet"),
)  # fmt: skip
# Labels that are times tell it themselves; over others such a title would mislead.
TIMELESS_GROUPINGS = [noun for noun in words.GROUPINGS if noun not in ("year", "quarter", "month", "week", "day")]


@dataclass(frozen=True)
class NumberStyle:
    """How a chart prints its numbers: $3k, 1,200, 12.5, 45 %."""

    prefix: str = ""
    suffix: str = ""
    decimals: int = 0
    commas: bool = False

    def show(self, value: float) -> str:
        digits = f"{abs(value):,.{self.decimals}f}"
        negative = value < 0 and digits.strip("0.,") != ""
        return (
            ("-" if negative else "") + self.prefix + (digits if self.commas else digits.replace(",", "")) + self.suffix
        )

    def show_finer(self, value: float) -> str:
        """With as many decimals as the value needs."""
        return replace(self, decimals=max(self.decimals, decimals_of(value))).show(value)


@dataclass(frozen=True)
class Axis:
    """A number axis from `low` to `high` with a tick at each multiple of `step`."""

    low: float
    high: float
    step: float
    style: NumberStyle

    @property
    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [round(number * self.step, 9) for number in range(first, last + 1)]

    @property
    def span(self) -> float:
        return self.high - self.low

    def share(self, value: float) -> float:
        return (value - self.low) / self.span


@dataclass(frozen=True)
class Chart:
    """Everything a chart shows; an empty text is not printed."""

    kind: str
    labels: tuple[str, ...]
    series: tuple[str, ...]  # one empty name where there is one series without a legend
    values: tuple[tuple[float | None, ...], ...]  # by series, then by label; None is a gap
    style: NumberStyle
    printed: bool  # each value stands beside its mark
    axis: Axis | None  # None: not drawn to any axis, as a pie, or drawn without one
    across: tuple[float, ...] = ()  # of a scatter plot's points
    across_axis: Axis | None = None
    title: str = ""
    subtitle: str = ""
    category_title: str = ""  # of a scatter plot: of the axis across
    value_title: str = ""
    unit: str = ""  # as it stands in `value_title`
    show_ticks: bool = True

    @property
    def lying(self) -> bool:
        return self.kind in LYING

    @property
    def round(self) -> bool:
        return self.kind in ROUND

    @property
    def stacked(self) -> bool:
        return self.kind in STACKED

    def shown(self, series: int, label: int) -> str:
        value = self.values[series][label]
        return "" if value is None else self.style.show(value)

    def total(self, label: int) -> float:
        return math.fsum(row[label] or 0.0 for row in self.values)

    def without_last(self) -> Chart:
        """The same chart with a category less."""
        rows = tuple(row[:-1] for row in self.values)
        if self.round and "%" in self.style.suffix:
            rows = (tuple(parts_of_hundred([value or 0.0 for value in rows[0]], self.style.decimals)),)
        return replace(self, labels=self.labels[:-1], values=rows, across=self.across[:-1])


@dataclass
class Drawn:
    """A chart in pixels: each of its texts as it was printed."""

    image: Image.Image
    glyphs: list[Glyph]
    labels: list[Written]
    series: list[Written]  # none where no legend names them
    values: list[list[Written | None]]  # by series, then by label; None is not printed
    ticks: list[tuple[float, Written]] = field(default_factory=list)
    across_ticks: list[tuple[float, Written]] = field(default_factory=list)
    texts: dict[str, Written] = field(default_factory=dict)  # title, subtitle, category_title, value_title, total
    colors: list[Color] = field(default_factory=list)  # of the series, or of a pie's parts, where they are plain


def decimals_of(value: float) -> int:
    return next((number for number in range(6) if abs(round(value, number) - value) < 1e-9 * max(1.0, abs(value))), 6)


def nice_step(span: float, count: float) -> float:
    """The smallest round step that needs at most `count` steps for the span."""
    raw = span / count
    unit = 10.0 ** math.floor(math.log10(raw))
    return round(next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * (1 - 1e-9)), 9)


def number_style(random: Random) -> tuple[NumberStyle, float]:
    """A style, and the largest number to show in it."""
    kind = random.random()
    if kind < 0.42:
        top = 10 ** random.uniform(1, random.choice((2, 2, 3, 4.5)))
        return NumberStyle(commas=top > 1000 and random.random() < 0.7), top
    if kind < 0.50:
        return NumberStyle(commas=True), 10 ** random.uniform(3.3, 6)
    if kind < 0.62:
        decimals = random.choice((1, 1, 2))
        return NumberStyle(decimals=decimals), 10 ** random.uniform(0.5 if decimals == 2 else 0.8, 2.5)
    if kind < 0.78:
        suffix = random.choice(("%", "%", "%", " %"))
        return NumberStyle(suffix=suffix, decimals=random.choice((0, 0, 1))), random.choice((20, 50, 100))
    if kind < 0.88:
        decimals, top = random.choice(((0, 100), (0, 9000), (2, 50), (0, 90000)))
        return NumberStyle(prefix=random.choice("$$$€£"), decimals=decimals, commas=top > 999), top
    if kind < 0.96:
        suffix = random.choice(("k", "k", "K", "M", "M", "B", "bn", "m"))
        return NumberStyle(random.choice(("", "", "$", "$", "€", "£")), suffix, random.choice((0, 1))), random.choice(
            (9, 50, 300)
        )
    return NumberStyle(suffix=random.choice((" kg", " km", " h", "x", " MB", " m", "ms", " C"))), random.choice(
        (40, 200)
    )


def shares(random: Random, count: int) -> list[float]:
    """Numbers between 0 and 1, spread as data are: evenly, along a trend, close together, or with a long tail."""
    kind = random.random()
    if kind < 0.4:
        return [random.uniform(0.06, 1) for _ in range(count)]
    if kind < 0.65:
        start, slope, noise = random.uniform(0.2, 0.8), random.uniform(-1, 1), random.choice((0.0, 0.1, 0.3))
        raw = [start + slope * at / count + random.uniform(-noise, noise) for at in range(count)]
        return [min(1.0, max(0.05, value)) for value in raw]
    if kind < 0.85:
        return [random.uniform(0.55, 1) for _ in range(count)]
    return [max(0.04, random.random() ** 2.2) for _ in range(count)]


def invent(random: Random, unseen: bool, room: float, dark: bool = False) -> Chart:
    """A chart's data; `room` is how many letters of its type fit across the picture."""
    kinds = UNSEEN_KINDS if unseen and not dark else SEEN_KINDS
    kind = random.choices(list(kinds), list(kinds.values()))[0]
    labels, series = _names(random, kind, room)
    style, top = number_style(random)
    if kind in ROUND:
        chart = _round_chart(random, kind, labels, style, top)
    elif kind == "scatter":
        chart = _scatter(random, labels, style, top)
    else:
        chart = _on_axis(random, kind, labels, series, style, top, room)
    return _titled(random, chart, room)


def _names(random: Random, kind: str, room: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    most = int(min(12, max(3, room / 4))) if kind not in ROUND else 6
    count = min(most, random.choice((2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 8, 10, 12)))
    if kind in ROUND or kind in SEVERAL:
        count = max(2, min(count, 6))
    labels = words.label_set(random, count)
    longest = max(4, room / (1.5 if kind in LYING else 2.2))
    labels = [_shortened(label, longest) for label in labels]
    if len(set(labels)) < count or any(mark in "".join(labels) for mark in '"\\'):
        labels = [str(year) for year in range(2012, 2012 + count)]
    several = kind in SEVERAL or (kind == "line" and random.random() < 0.45)
    if not several:
        named = kind in ("bar", "line", "area") and random.random() < 0.12
        return tuple(labels), (random.choice(words.MEASURES) if named else "",)
    names = _series_names(random, longest)
    return tuple(labels), tuple(names) if not set(names) & set(labels) else ("Series A", "Series B")


def _series_names(random: Random, longest: float) -> tuple[str, ...]:
    kind = random.random()
    names: tuple[str, ...]
    if kind < 0.2:
        names = random.choice(SERIES_PAIRS)
    elif kind < 0.35:
        year = random.randint(1990, 2030)
        names = tuple(str(year + at) for at in range(random.choice((2, 2, 3))))
    elif kind < 0.5:
        names = random.choice(SERIES_TRIPLES)
    else:
        names = tuple(_shortened(name, longest) for name in words.label_set(random, random.choice((2, 2, 3, 3, 4))))
    plain = len(set(names)) == len(names) and not any(mark in "".join(names) for mark in '"\\')
    return names if plain else ("Series A", "Series B")


def _shortened(text: str, longest: float) -> str:
    while len(text) > longest and " " in text:
        text = text.rsplit(" ", 1)[0].rstrip(",;:-&")
    return text[: int(longest)].rstrip(" -.,&")


def _numbers(random: Random, count: int, top: float, decimals: int, taken: set[float]) -> list[float]:
    """Numbers up to `top`, mostly all different; `taken` are those of the series before."""
    unit = 10.0**-decimals
    top = max(top * random.uniform(0.6, 1.0), 12 * unit)
    repeats = random.random() < 0.08
    found = []
    for share in shares(random, count):
        value = max(unit, round(share * top, decimals))
        while value in taken and not repeats:
            value = round(value + unit * random.choice((1, 2, 3)), decimals)
        taken.add(value)
        found.append(value)
    return found


def _on_axis(
    random: Random,
    kind: str,
    labels: tuple[str, ...],
    series: tuple[str, ...],
    style: NumberStyle,
    top: float,
    room: float,
) -> Chart:
    taken: set[float] = set()
    rows = [_numbers(random, len(labels), top, style.decimals, taken) for _ in series]
    if kind in STACKED:
        rows = [[max(value, round(top * 0.18, style.decimals)) for value in row] for row in rows]
    percent = "%" in style.suffix
    if kind in STACKED and percent and random.random() < 0.7:
        columns = [parts_of_hundred(list(column), style.decimals) for column in zip(*rows, strict=True)]
        rows = [list(row) for row in zip(*columns, strict=True)]
    below = kind in MAY_FALL_BELOW_ZERO and random.random() < 0.09
    if below:
        rows = [[-value if random.random() < 0.35 else value for value in row] for row in rows]
    printed = random.random() < 0.64
    highest = max(map(max, rows)) if kind not in STACKED else max(map(math.fsum, zip(*rows, strict=True)))
    lowest = min(0.0, *map(min, rows))
    if kind == "line" and random.random() < 0.5:
        least = min(map(min, rows))
        lowest = least - 0.15 * (highest - least)
        lowest = lowest if least < 0 else max(0.0, lowest)
    axis = _axis_for(random, lowest, highest, style, min(100.0, highest * 2) if percent else None)
    chart = Chart(kind, labels, series, tuple(map(tuple, rows)), style, printed, axis)
    if not printed:
        return read_from_axis(chart)
    hidden = random.random() < (0.4 if kind != "line" else 0.25)
    if random.random() < 0.06 and kind in ("bar", "hbar", "grouped", "lollipop") and len(labels) > 3:
        at = random.randrange(len(labels))
        values = (
            tuple(None if place == at else value for place, value in enumerate(chart.values[0])),
            *chart.values[1:],
        )
        chart = replace(chart, values=values)
    return replace(chart, show_ticks=not hidden)


def read_from_axis(chart: Chart) -> Chart:
    """The chart without printed values: numbers that can be read from the axis, said in the axis' own style."""
    axis = chart.axis
    assert axis is not None  # only charts with an axis come here
    unit = axis.step / 10

    def rounded(value: float | None) -> float | None:
        return None if value is None else round((round(value / unit) or 1) * unit, 9)

    values = tuple(tuple(map(rounded, row)) for row in chart.values)
    decimals = max((decimals_of(value) for row in values for value in row if value is not None), default=0)
    style = replace(axis.style, decimals=max(axis.style.decimals, min(decimals, 4)))
    return replace(chart, values=values, style=style, printed=False, show_ticks=True)


def _axis_for(random: Random, lowest: float, highest: float, style: NumberStyle, ceiling: float | None = None) -> Axis:
    span = max(highest - lowest, 1e-6)
    step = nice_step(span, random.choice((3, 4, 5, 6)))
    low = math.floor(lowest / step - 1e-6) * step if lowest else 0.0
    tidy = random.random() < 0.6
    high = math.ceil(highest / step - 1e-6) * step if tidy else highest + span * random.uniform(0.02, 0.12)
    if not tidy and lowest:
        low = lowest - span * 0.05
    if ceiling is not None and random.random() < 0.4 and highest <= 100 <= ceiling:
        high = 100.0
    bare = random.random() < 0.25
    shown = NumberStyle(commas=style.commas) if bare else style
    decimals = decimals_of(step)
    if style.decimals and random.random() < 0.3:
        decimals = max(decimals, style.decimals)
    return Axis(round(low, 9), round(high, 9), step, replace(shown, decimals=decimals))


def _scatter(random: Random, labels: tuple[str, ...], style: NumberStyle, top: float) -> Chart:
    def side(style: NumberStyle, top: float) -> tuple[list[float], Axis]:
        numbers = [random.uniform(0.05, 1) * top for _ in labels]
        low, high = min(numbers), max(numbers)
        space = max(high - low, top * 0.1) * 0.12
        axis = _axis_for(random, 0.0 if low < 0.4 * high else low - space, high + space, style)
        unit = axis.step / 10
        return [round(round(number / unit) * unit, 9) for number in numbers], axis

    across, across_axis = side(*number_style(random))
    up, axis = side(style, top)
    decimals = max(axis.style.decimals, max(map(decimals_of, up)))
    shown = replace(axis.style, decimals=min(decimals, 4))
    return Chart("scatter", labels, ("",), (tuple(up),), shown, False, axis, tuple(across), across_axis)


def _round_chart(random: Random, kind: str, labels: tuple[str, ...], style: NumberStyle, top: float) -> Chart:
    parts = [random.uniform(0.35, 1.6) for _ in labels]
    if random.random() < 0.65 and kind != "donut_total":
        style = NumberStyle(suffix=random.choice(("%", "%", "%", " %")), decimals=random.choice((0, 0, 1)))
        values = parts_of_hundred(parts, style.decimals)
    else:
        style = replace(style, suffix="" if "%" in style.suffix else style.suffix)
        scale = max(top, 20 * 10.0**-style.decimals) / max(parts)
        values = [round(part * scale, style.decimals) for part in parts]
    return Chart(kind, labels, ("",), (tuple(values),), style, random.random() < 0.85 or kind == "donut_total", None)


def parts_of_hundred(parts: list[float], decimals: int) -> list[float]:
    """Percentages that sum to exactly 100."""
    unit = 10.0**-decimals
    exact = [part / math.fsum(parts) * 100 for part in parts]
    values = [round(math.floor(value / unit) * unit, decimals) for value in exact]
    by_rest = sorted(range(len(parts)), key=lambda at: values[at] - exact[at])
    for at in by_rest[: round((100 - math.fsum(values)) / unit)]:
        values[at] = round(values[at] + unit, decimals)
    return values


def _titled(random: Random, chart: Chart, room: float) -> Chart:
    title = subtitle = category = value = unit = ""
    if random.random() < 0.72:
        title = _shortened(words.title(random), max(8, room * 0.9))
    if title and random.random() < 0.2:
        subtitle = _shortened(words.title(random) if random.random() < 0.5 else words.prose(random, 40), room)
    if not chart.round and random.random() < 0.45:
        category = grouping_of(chart, random)
    if not chart.round and random.random() < (0.55 if chart.show_ticks else 0.15):
        value = random.choice(words.MEASURES) if random.random() < 0.75 else words.word(random).capitalize()
        if random.random() < 0.4:
            suffix = chart.style.suffix.strip()
            unit = (
                suffix
                if suffix in ("%", "kg", "km", "h", "MB", "ms")
                else random.choice(words.UNITS).removeprefix("in ")
            )
            value += random.choice((" ({})", " ({})", " [{}]", " in {}", ", {}")).format(unit)
    if chart.kind == "scatter" and category:
        category = random.choice(words.MEASURES)
    if category == value or title in (category, value):
        title = subtitle = ""
    return replace(chart, title=title, subtitle=subtitle, category_title=category, value_title=value, unit=unit)


def grouping_of(chart: Chart, random: Random) -> str:
    """What the labels are: "Quarter" for Q1, Q2, and any noun where nothing tells."""
    return (noun_of(chart.labels) or random.choice(TIMELESS_GROUPINGS)).capitalize()


def noun_of(labels: tuple[str, ...]) -> str:
    """The common noun of labels that tell it themselves."""
    first = labels[0]
    if first[:1] == "Q" and first[1:2].isdigit():
        return "quarter"
    if first.isdigit() and len(first) == 4 and 1900 < int(first) < 2050:
        return "year"
    months = {month[:3].lower() for month in words.MONTHS}
    if all(label[:3].lower() in months and (len(label) == 3 or label in words.MONTHS) for label in labels):
        return "month"
    if first[:3] in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun") and (len(first) == 3 or first.endswith("day")):
        return "day"
    for noun in ("Week", "Team", "Group", "Class", "Item"):
        if all(label.startswith(f"{noun} ") for label in labels):
            return noun.lower()
    return ""
