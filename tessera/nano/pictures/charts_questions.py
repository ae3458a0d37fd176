"""Questions about a chart and their answers, each with the printed characters it is read from.

A value that is printed is asked for to the letter. One that must be read from the axis is right
within a twentieth of the axis. What a person could not decide from the picture is not asked.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures import words
from tessera.nano.pictures.charts_data import Chart, Drawn, noun_of
from tessera.nano.pictures.charts_look import color_name
from tessera.nano.pictures.page import Question, Written, filled, joined, unprinted

READING_ERROR = 0.05  # of the axis: how far a value may be misread
CLEARLY = 0.03  # of the axis: bars that differ less look alike
CLEARLY_OF_PARTS = 0.15  # of the largest part of a pie, whose angles are harder to compare
PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?")
NOT_SHOWN = "not shown"

VALUE = (
    "What is the value of {label}?", "What value does {label} have?", "How much is {label}?", "Value of {label}?",
    "What number belongs to {label}?", "Read the value of {label}.", "What is {label}?", "{label}?",
    "Tell me the value for {label}.", "How high is {label}?", "What does the chart show for {label}?",
    "Give the value for {label}.", "What is the number for {label}?", "How many for {label}?", "What was {label}?",
    "What's the value at {label}?", "Which value is shown for {label}?", "What figure is given for {label}?",
    "How much for {label}?", "What amount is shown for {label}?", "Find the value of {label}.", "{label} value?",
    "What is the data for {label}?", "How large is {label}?", "What does {label} stand at?",
    "What was it in {label}?", 'What is the value of "{label}"?', "What is the value in {label}?",
)  # fmt: skip
MEASURE_VALUE = (
    "What is the {measure} of {label}?", "What was the {measure} in {label}?", "{measure} of {label}?",
    "How much {measure} in {label}?", "What {measure} does {label} have?", "What is the {measure} for {label}?",
    "Give the {measure} for {label}.", "{measure} {label}?", "How high was the {measure} in {label}?",
)  # fmt: skip
SERIES_VALUE = (
    "What is the value of {series} for {label}?", "What is {series} in {label}?", "{series} in {label}?",
    "How much is {series} at {label}?", "What was the value of {series} in {label}?", "{series}, {label}?",
    "Give {series} for {label}.", "What does {label} show for {series}?", "Value of {label} in {series}?",
    "What number does {series} have in {label}?", "Read the {series} value of {label}.", "{label}, {series}?",
    "What value does {series} reach in {label}?", "How high is {series} in {label}?",
    "For {label}, how much is {series}?", "In {label}, what is {series}?", "What is the {series} value at {label}?",
    "How many {series} in {label}?", "Tell me {series} for {label}.", "What is the {series} figure for {label}?",
)  # fmt: skip
HIGHEST = (
    "Which {thing} is highest?", "Which {thing} is the largest?", "Which {thing} has the highest value?",
    "What is the highest {thing}?", "Which {thing} is biggest?", "Name the {thing} with the highest value.",
    "Which {thing} has the most?", "What {thing} is the maximum?", "Which {thing} was best?",
    "Which {thing} leads?", "Where is the peak?",
    "Which {thing} has the greatest value?", "What is the best {thing}?",
    "Find the {thing} with the largest value.", "Which one is the highest?", "What was the strongest {thing}?",
    "Which {thing} shows the maximum?", "Which has the most?", "Top {thing}?", "Which {thing} is number one?",
    "Where is it highest?", "In which {thing} is the value highest?",
)  # fmt: skip
LOWEST = (
    "Which {thing} is lowest?", "Which {thing} is the smallest?", "Which {thing} has the lowest value?",
    "What is the lowest {thing}?", "Name the {thing} with the lowest value.", "Which {thing} has the least?",
    "What {thing} is the minimum?", "Which {thing} was worst?", 
    "Where is the low point?", "Which {thing} has the smallest value?",
    "Find the {thing} with the smallest value.", "Which one is the lowest?", "What was the weakest {thing}?",
    "Which {thing} shows the minimum?", "Which has the least?", "Where is it lowest?", "What is the worst {thing}?",
    "In which {thing} is the value lowest?",
)  # fmt: skip
SECOND = (
    "Which {thing} is second highest?", "What is the second largest {thing}?", 
    "Which {thing} has the second highest value?", "Name the second highest {thing}.", "Who is in second place?",
    "Which {thing} is the runner-up?", "Second highest {thing}?", "Which is the second biggest {thing}?",
)  # fmt: skip
HIGHEST_VALUE = (
    "What is the highest value?", "What is the largest value?", "What is the maximum?", "Highest value?",
    "How high is the highest {thing}?", "What value does the highest {thing} have?", "What is the peak value?",
    "Give the largest number in the data.", "What is the value of the highest {thing}?", "How much is the most?",
)  # fmt: skip
LOWEST_VALUE = (
    "What is the lowest value?", "What is the smallest value?", "What is the minimum?", "Lowest value?",
    "How low is the lowest {thing}?", "What value does the lowest {thing} have?", "How much is the least?",
    "Give the smallest number in the data.", "What is the value of the lowest {thing}?",
)  # fmt: skip
BEST_AND_MARGIN = (
    "Which {thing} was best, and by how much?", "Which {thing} is highest, and by how much?",
    "Which {thing} leads, and by what margin?", "What is the highest {thing}, and how far is it ahead of the next?",
    "Which {thing} has the most, and how much more than the second?", "Which {thing} won, and by how much?",
    "Name the top {thing} and its lead over the second.", "Best {thing} and margin?",
    "Which {thing} is on top and by how much?",
)  # fmt: skip
WORST_AND_MARGIN = (
    "Which {thing} was worst, and by how much?", "Which {thing} is lowest, and by how much?",
    "Which {thing} is smallest, and how far behind the next?",
)  # fmt: skip
HIGHEST_WITH_VALUE = (
    "Which {thing} is highest, and what is its value?", "Name the highest {thing} and its value.",
    "Which {thing} has the most, and how much is it?", "What is the top {thing} and its value?",
)  # fmt: skip
WHICH_HAS = (
    "Which {thing} has the value {value}?", "Which {thing} is {value}?", "Which {thing} shows {value}?",
    "What {thing} has {value}?", "{value} belongs to which {thing}?", "Where is the value {value}?",
    "Which {thing} stands at {value}?", "Which {thing} reached {value}?", "Whose value is {value}?",
    "For which {thing} is {value} given?", "What has a value of {value}?", "Which one is {value}?",
)  # fmt: skip
LARGER = (
    "Which is larger, {one} or {other}?", "Which is higher: {one} or {other}?", "Is {one} or {other} larger?",
    "Which has more, {one} or {other}?", "{one} or {other}: which is greater?",
    "Which of {one} and {other} is bigger?", "Who has the higher value, {one} or {other}?",
    "Which one is more, {one} or {other}?", "Compare {one} and {other}: which is higher?",
    "Between {one} and {other}, which is larger?", "Which of the two is higher, {one} or {other}?",
    "What is greater, {one} or {other}?",
)  # fmt: skip
SMALLER = (
    "Which is smaller, {one} or {other}?", "Which is lower: {one} or {other}?", "Is {one} or {other} smaller?",
    "Which has less, {one} or {other}?", "Which of {one} and {other} is smaller?",
    "Between {one} and {other}, which is lower?",
)  # fmt: skip
IS_LARGER = (
    "Is {one} larger than {other}?", "Is {one} higher than {other}?", "Does {one} have more than {other}?",
    "Is the value of {one} above that of {other}?", "Is {one} greater than {other}?", "Was {one} above {other}?",
)  # fmt: skip
IS_SMALLER = (
    "Is {one} smaller than {other}?", "Is {one} lower than {other}?", "Does {one} have less than {other}?",
    "Is {one} below {other}?",
)  # fmt: skip
DIFFERENCE = (
    "What is the difference between {one} and {other}?", "By how much do {one} and {other} differ?",
    "How far apart are {one} and {other}?", "Difference between {one} and {other}?",
    "How much more is {one} than {other}?", "By how much does {one} exceed {other}?",
    "How much larger is {one} than {other}?", "{one} minus {other}?", "What is {one} minus {other}?",
    "How much more does {one} have than {other}?",
)  # fmt: skip
SUM = (
    "What is the sum of all values?", "What is the total?", "What do all {things} add up to?", "Sum of all {things}?",
    "Add up all values.", "How much is it in total?", "What is the total of all {things}?", "Total?",
)  # fmt: skip
SUM_OF_TWO = (
    "What is the sum of {one} and {other}?", "How much are {one} and {other} together?", "{one} plus {other}?",
    "What do {one} and {other} add up to?", "Add {one} and {other}.", "Total of {one} and {other}?",
)  # fmt: skip
COUNT = (
    "How many {things} are there?", "How many {things} does the chart have?", "Count the {things}.",
    "How many {things} are shown?", "Number of {things}?", "How many {things} can you see?", "How many {things}?",
    "How many {things} does it show?", "What is the number of {things}?", "Say how many {things} there are.",
)  # fmt: skip
ABOVE = (
    "How many {things} are above {limit}?", "How many values are above {limit}?", "How many are higher than {limit}?",
    "How many {things} exceed {limit}?", "How many {things} have more than {limit}?",
    "Count the {things} over {limit}.", "How many {things} are greater than {limit}?",
)  # fmt: skip
BELOW = (
    "How many {things} are below {limit}?", "How many values are below {limit}?", "How many are lower than {limit}?",
    "How many {things} have less than {limit}?", "Count the {things} under {limit}.",
)  # fmt: skip
TITLE = (
    "What is the title?", "What is the title of the chart?", "What is the chart's title?", "Title?",
    "Read the title.", "What is the heading?", "How is the chart titled?", "Give the title.",
    "What does the title say?", "What is this chart called?", "What is the name of this chart?",
    "Which title does the chart have?", "What is written above the chart?", "Tell me the title.",
)  # fmt: skip
SUBTITLE = ("What is the subtitle?", "Read the subtitle.", "What does the subtitle say?", "Subtitle?")
AXIS_TITLE = (
    "What is the {axis} axis title?", "What is the title of the {axis} axis?", "What does the {axis} axis show?",
    "How is the {axis} axis labelled?", "What is the label of the {axis} axis?", "{axis} axis label?",
    "What is on the {axis} axis?", "Read the {axis} axis title.", "What is written along the {axis} axis?",
    "Name of the {axis} axis?", "Which quantity is on the {axis} axis?",
)  # fmt: skip
LARGEST_TICK = (
    "What is the largest tick of the {axis} axis?", "What is the highest number on the {axis} axis?",
    "What is the largest number printed on the {axis} axis?", "Largest tick on the {axis} axis?",
    "What is the top tick of the {axis} axis?", "Up to which number is the {axis} axis labelled?",
)  # fmt: skip
SMALLEST_TICK = (
    "What is the smallest tick of the {axis} axis?", "What is the lowest number on the {axis} axis?",
    "Where does the {axis} axis start?", "Smallest tick on the {axis} axis?",
)  # fmt: skip
UNIT = (
    "What is the unit?", "In which unit are the values?", "What unit does the {axis} axis use?",
    "Unit of the {axis} axis?", "What unit are the values in?", "In what unit is it measured?", "Which unit is used?",
)  # fmt: skip
COLOR = (
    "What color is {series}?", "Which color stands for {series}?", "What colour is {series}?", "Colour of {series}?",
    "Which colour does {series} have?", "In what color is {series} drawn?", "What is the color of {series}?",
)  # fmt: skip
BY_COLOR = (
    "What does the {color} {mark} show?", "Which {thing} is {color}?", "What is shown in {color}?",
    "What does {color} stand for?", "What do the {color} {mark}s mean?", "Which {thing} has the color {color}?",
)  # fmt: skip
ALL = (
    "List all values as JSON.", "Give all values as JSON.", "All values as JSON, please.", "Return the data as JSON.",
    "Extract the values as JSON.", "What are the values? Answer as JSON.", "Convert this to JSON.",
    "List all as JSON.", "Convert the chart to JSON.", "Give me the data of this chart as JSON.", "Data as JSON.",
    "Read the whole chart as JSON.", "Turn this chart into a JSON table.", "Extract the data table as JSON.",
    "What data does the chart show? JSON only.", "Return a JSON object with all values.",
    "JSON of all {things} and their values.", "Chart to JSON.", "Output the underlying data as JSON.",
    "List every {thing} with its value as JSON.", "Give the table behind the chart as JSON.",
)  # fmt: skip
ALL_OF = (
    "Give the values of {name} as JSON.", "List all values of {name} as JSON.", "{name} as JSON.",
    "Return the data of {name} as JSON.", "Extract {name} as JSON.", "JSON with the values of {name}.",
    "What are the values of {name}? Answer as JSON.",
)  # fmt: skip
SOME = (
    "Give {one} and {other} as JSON.", "Return JSON with the keys {one} and {other}.",
    "Extract {one} and {other} as JSON.", 'Fill in {{"{one}", "{other}"}}.', "Values of {one} and {other} as JSON.",
    "JSON for {one}, {other}.",
)  # fmt: skip
LABELS = (
    "List the {things}.", "What are the {things}?", "Name all {things}.", "Which {things} are shown?",
    "List the {things}, separated by commas.", "Which {things} does the chart show?",
)  # fmt: skip
SERIES_NAMES = (
    "Which series are shown?", "List the series.", "What does the legend say?", "Name the entries of the legend.",
    "What are the series called?", "What is in the legend?",
)  # fmt: skip
TREND = (
    "Does it increase or decrease from {one} to {other}?",
    "Does the value increase or decrease from {one} to {other}?",
    "From {one} to {other}, does it increase or decrease?", "Did it increase or decrease between {one} and {other}?",
)  # fmt: skip
TRENDING = (
    "Is the trend increasing or decreasing?", "Is it increasing or decreasing?",
    "Are the values increasing or decreasing?", "Is the line increasing or decreasing?",
)  # fmt: skip
KIND = (
    "What kind of chart is this?", "What type of chart is it?", "Which kind of chart is shown?", "Chart type?",
    "What kind of diagram is this?", "What sort of chart do you see?",
)  # fmt: skip
STACK_TOTAL = (
    "What is the total of {label}?", "How much is {label} in total?", "Total for {label}?",
    "How high is the whole bar of {label}?", "What do the parts of {label} add up to?", "Sum of {label}?",
)  # fmt: skip
TOTAL = (
    "What is the total?", "What number is in the middle?", "Total?", "What is the total in the centre?",
    "How much is it in total?",
)  # fmt: skip
ACROSS = (
    "What is the x value of {label}?", "How far right is {label}?", "Read x of {label}.", "x of {label}?",
    "What x value does {label} have?", "Where is {label} on the x axis?",
)  # fmt: skip
UP = (
    "What is the y value of {label}?", "How high is {label}?", "Read y of {label}.", "y of {label}?",
    "What y value does {label} have?", "Where is {label} on the y axis?",
)  # fmt: skip
RIGHTMOST = ("Which point is furthest right?", "Which point has the largest x value?", "Which point has the highest x?",
             "What is the rightmost point?")  # fmt: skip
LEFTMOST = ("Which point is furthest left?", "Which point has the smallest x value?", "Which point has the lowest x?",
            "What is the leftmost point?")  # fmt: skip
KIND_NAMES = {
    "bar": "bar chart", "hbar": "horizontal bar chart", "grouped": "grouped bar chart", "hgrouped": "grouped bar chart",
    "stacked": "stacked bar chart", "hstacked": "stacked bar chart", "line": "line chart", "area": "area chart",
    "scatter": "scatter plot", "pie": "pie chart", "donut": "donut chart", "donut_total": "donut chart",
    "lollipop": "lollipop chart",
}  # fmt: skip
MARKS = {"line": "line", "area": "area", "scatter": "point", "pie": "slice", "donut": "slice", "donut_total": "slice"}
THINGS = {"line": ("point", "point"), "area": ("point", "point"), "scatter": ("point", "dot"), "pie": ("slice", "part"),
          "donut": ("slice", "segment"), "donut_total": ("slice", "segment")}  # fmt: skip


def ask(random: Random, chart: Chart, drawn: Drawn) -> list[Question]:
    """3 to 8 different questions, about half of them where printed values are with the whole table."""
    asker = _Asker(random, chart, drawn)
    wanted = random.randint(3, 8)
    found: dict[str, Question] = {}
    if asker.printed and random.random() < 0.5:
        _keep(found, asker.everything())
    makers, weights = zip(*asker.kinds(), strict=True)
    for _ in range(40):
        if len(found) >= wanted:
            break
        _keep(found, random.choices(makers, weights)[0]())
    asked = list(found.values())
    random.shuffle(asked)
    return asked


def _keep(found: dict[str, Question], question: Question | None) -> None:
    if question is not None:
        found.setdefault(question.question.text.lower(), question)


Maker = Callable[[], Question | None]


@dataclass
class _Cell:
    """A value with its names and what was printed of it."""

    series: int
    label: int
    value: float
    written: Written | None


class _Asker:
    """Makes questions about one chart; None where the chart does not allow the question."""

    def __init__(self, random: Random, chart: Chart, drawn: Drawn) -> None:
        self.random, self.chart, self.drawn = random, chart, drawn
        self.one = len(chart.series) == 1
        self.cells = [
            _Cell(series, label, value, drawn.values[series][label])
            for series, row in enumerate(chart.values)
            for label, value in enumerate(row)
            if value is not None
        ]
        self.printed = chart.printed and all(cell.written is not None for cell in self.cells)
        axis = chart.axis
        self.span = axis.span if axis else max(cell.value for cell in self.cells)
        self.readable = self.printed or (axis is not None and bool(drawn.ticks))

    def kinds(self) -> list[tuple[Maker, float]]:
        """What can be asked, with how often."""
        chart = self.chart
        found: list[tuple[Maker, float]] = [
            (self.value, 3.4), (self.highest, 1.6), (self.lowest, 1.2), (self.second, 0.5), (self.extreme_value, 0.7),
            (self.margin, 1.0), (self.compare, 1.4), (self.difference, 0.8), (self.count, 0.7), (self.above, 0.7),
            (self.title, 0.8), (self.axis_title, 0.9), (self.absent, 0.5), (self.kind, 0.15), (self.color, 0.5),
            (self.names, 0.4), (self.tick, 0.5), (self.unit, 0.4),
        ]  # fmt: skip
        if self.printed:
            found += [(self.which_has, 1.1), (self.sum, 0.4), (self.some, 0.5), (self.highest_with_value, 0.4)]
            if not self.one:
                found.append((self.everything_of, 0.8))
        elif self.readable and chart.kind != "scatter" and not chart.stacked:
            found.append((self.everything, 0.5))
        if chart.kind in ("line", "area", "bar"):
            found.append((self.trend, 0.6))
        if chart.kind == "scatter":
            found += [(self.across, 1.5), (self.outermost, 1.0)]
        if chart.stacked:
            found.append((self.stack_total, 1.2))
        if "total" in self.drawn.texts:
            found.append((self.total, 1.5))
        return found

    # Wording -----------------------------------------------------------------------------------

    def said(self, templates: Sequence[str], **pieces: Written | str) -> Written:
        """One of the wordings, written with more or less care."""
        random, template = self.random, self.random.choice(templates)
        if random.random() < 0.15 and template[1:2].islower():
            template = template[0].lower() + template[1:]
        if random.random() < 0.15 and template[-1] in "?.":
            template = template[:-1]
        elif random.random() < 0.04 and template.endswith("."):
            template = "Please " + template[0].lower() + template[1:]
        text = filled(template, **pieces)
        first = text.text[0]
        if template.startswith("{measure}") and first.islower() and random.random() < 0.6:
            text = Written(first.upper() + text.text[1:], text.glyphs)
        return text

    def thing(self) -> str:
        """What one label is called."""
        chart, random = self.chart, self.random
        names = ["category", "item", "label", "one", *THINGS.get(chart.kind, ("bar", "bar"))]
        if not self.one:
            names = ["category", "label", "group"]
        noun = noun_of(chart.labels)
        title = chart.category_title.lower() if chart.kind != "scatter" else ""
        known = [name for name in (noun, title) if name]
        return random.choice(known) if known and random.random() < 0.7 else random.choice(names)

    def things(self, thing: str | None = None) -> str:
        thing = thing or self.thing()
        if thing in ("one", "label"):
            return "labels"
        return (
            thing[:-1] + "ies"
            if thing.endswith("y") and thing[-2:-1] not in "aeo"
            else thing + ("es" if thing.endswith("s") else "s")
        )

    def label(self, at: int) -> Written:
        """A label as a question quotes it, now and then in lower case."""
        written = self.drawn.labels[at]
        return Written(written.text.lower(), written.glyphs) if self.random.random() < 0.04 else written

    def name(self, cell: _Cell) -> Written:
        """A cell's name in a list of any: its label, its series and its label."""
        if self.one:
            return self.label(cell.label)
        return filled("{series} in {label}", series=self.drawn.series[cell.series], label=self.label(cell.label))

    def question(
        self, asked: Written, answer: Written, clue: Written | None = None, tolerance: float = 0.0, skill: str = "chart"
    ) -> Question:
        return Question(asked, answer, skill, clue if clue is not None and clue.text else None, round(tolerance, 4))

    # Values ------------------------------------------------------------------------------------

    def shown(self, cell: _Cell) -> Written:
        """The value as printed; one that lies on a tick as the tick's number, others unprinted."""
        if cell.written is not None:
            return cell.written
        text = self.said_value(cell.value)
        tick = self.nearest_tick(cell.value)
        return tick if tick is not None and tick.text == text else unprinted(text)

    def said_value(self, value: float) -> str:
        if self.printed or self.chart.axis is None:
            return self.chart.style.show(value)
        return self.chart.axis.style.show_finer(value)

    def nearest_tick(self, value: float) -> Written | None:
        ticks = self.drawn.ticks
        return min(ticks, key=lambda tick: abs(tick[0] - value))[1] if ticks else None

    def clue(self, cell: _Cell) -> Written | None:
        return cell.written if cell.written is not None else self.nearest_tick(cell.value)

    def tolerance(self, value: float) -> float:
        return 0.0 if self.printed else min(1.0, READING_ERROR * self.span / abs(value))

    def apart(self, one: float, other: float) -> bool:
        """Whether a person sees which is larger."""
        if self.printed:
            return abs(one - other) > 1e-9
        return abs(one - other) > (CLEARLY_OF_PARTS if self.chart.round else CLEARLY) * self.span

    def measurable(self, cell: _Cell) -> bool:
        """Whether the cell's value can be told: only the lowest part of a stack without numbers stands on the axis."""
        return self.readable and abs(cell.value) > 1e-9 and (self.printed or not self.chart.stacked or cell.series == 0)

    def value(self) -> Question | None:
        cell = self.random.choice(self.cells)
        if not self.measurable(cell):
            return None
        label = self.label(cell.label)
        measure = self.drawn.texts.get("value_title")
        if self.chart.kind == "scatter":
            asked = self.said(UP, label=label)
        elif not self.one:
            asked = self.said(SERIES_VALUE, series=self.drawn.series[cell.series], label=label)
        elif measure is not None and self.random.random() < 0.4:
            bare = self.bare_measure(measure)
            lower = Written(bare.text.lower(), bare.glyphs) if not bare.text.isupper() else bare
            asked = self.said(MEASURE_VALUE, measure=lower, label=label)
        else:
            asked = self.said(VALUE, label=label)
        return self.question(asked, self.shown(cell), self.clue(cell), self.tolerance(cell.value))

    def bare_measure(self, title: Written) -> Written:
        """An axis title without its unit."""
        end = re.search(r" [(\[]|, | in ", title.text)
        return title[: end.start()] if end else title

    def ranked(self) -> tuple[list[_Cell], Written | None]:
        """Cells to compare, the lowest first, and the series' name where only one series is meant."""
        cells, series = self.cells, None
        if not self.one:
            rows = [0] if self.chart.stacked and not self.printed else range(len(self.chart.series))
            at = self.random.choice(rows)
            cells, series = [cell for cell in cells if cell.series == at], self.drawn.series[at]
        return sorted(cells, key=lambda cell: cell.value), series

    def about(self, asked: Written, series: Written | None) -> Written:
        """The question, for one series where there are several."""
        if series is None:
            return asked
        form = self.random.choice(
            ("{asked} ({series})", "For {series}: {asked}", "{series}: {asked}", "In {series}, {asked}")
        )
        if form.startswith(("For", "In")) and asked.text[1:2].islower():
            asked = Written(asked.text[0].lower() + asked.text[1:], asked.glyphs)
        return filled(form, asked=asked, series=series)

    def highest(self) -> Question | None:
        return self.placed(-1, HIGHEST)

    def lowest(self) -> Question | None:
        return self.placed(0, LOWEST)

    def second(self) -> Question | None:
        return self.placed(-2, SECOND)

    def placed(self, place: int, templates: Sequence[str]) -> Question | None:
        cells, series = self.ranked()
        cell = self.standing_alone(cells, place)
        if cell is None:
            return None
        asked = self.about(self.said(templates, thing=self.thing()), series)
        return self.question(asked, self.drawn.labels[cell.label], self.clue(cell))

    def standing_alone(self, cells: list[_Cell], place: int) -> _Cell | None:
        """The cell at a place of the ranking, if nothing else could be taken for it."""
        place %= len(cells)
        near = [cells[at] for at in (place - 1, place + 1) if 0 <= at < len(cells)]
        if len(cells) < 2 or not all(self.apart(cells[place].value, other.value) for other in near):
            return None
        return cells[place]

    def extreme_value(self) -> Question | None:
        if not self.readable or (self.chart.stacked and not self.printed):
            return None
        cells, series = self.ranked()
        high = self.random.random() < 0.6
        cell = cells[-1 if high else 0]
        if abs(cell.value) < 1e-9:
            return None
        asked = self.about(self.said(HIGHEST_VALUE if high else LOWEST_VALUE, thing=self.thing()), series)
        return self.question(asked, self.shown(cell), self.clue(cell), self.tolerance(cell.value))

    def margin(self) -> Question | None:
        if not self.printed:
            return None
        cells, series = self.ranked()
        best = self.random.random() < 0.75
        cell = self.standing_alone(cells, -1 if best else 0)
        if cell is None:
            return None
        lead = abs(cell.value - cells[-2 if best else 1].value)
        asked = self.about(self.said(BEST_AND_MARGIN if best else WORST_AND_MARGIN, thing=self.thing()), series)
        answer = filled("{label}, {lead}", label=self.drawn.labels[cell.label], lead=self.chart.style.show(lead))
        return self.question(asked, answer, cell.written)

    def highest_with_value(self) -> Question | None:
        cells, series = self.ranked()
        cell = self.standing_alone(cells, -1)
        if cell is None or cell.written is None:
            return None
        answer = filled("{label}, {value}", label=self.drawn.labels[cell.label], value=cell.written)
        return self.question(
            self.about(self.said(HIGHEST_WITH_VALUE, thing=self.thing()), series), answer, cell.written
        )

    def pair(self) -> tuple[_Cell, _Cell] | None:
        """Two cells that differ, of one series or of one label."""
        cells = self.cells
        if not self.one:
            same = self.random.choice(("series", "label"))
            if self.chart.stacked and not self.printed:
                same, cells = "series", [cell for cell in cells if cell.series == 0]
            at = getattr(self.random.choice(cells), same)
            cells = [cell for cell in cells if getattr(cell, same) == at]
        if len(cells) < 2:
            return None
        one, other = self.random.sample(cells, 2)
        return (one, other) if self.apart(one.value, other.value) else None

    def compare(self) -> Question | None:
        pair = self.pair()
        if pair is None:
            return None
        one, other = pair
        names = {"one": self.name(one), "other": self.name(other)}
        larger = one.value > other.value
        clue = self.clue(one if larger else other)
        kind = self.random.random()
        if kind < 0.5:
            answer = self.drawn_name(one if larger else other)
            return self.question(self.said(LARGER, **names), answer, clue)
        if kind < 0.7:
            answer = self.drawn_name(other if larger else one)
            return self.question(self.said(SMALLER, **names), answer, self.clue(other if larger else one))
        asks_larger = kind < 0.88
        text = "yes" if larger == asks_larger else "no"
        return self.question(self.said(IS_LARGER if asks_larger else IS_SMALLER, **names), unprinted(text), clue)

    def drawn_name(self, cell: _Cell) -> Written:
        if self.one:
            return self.drawn.labels[cell.label]
        return filled("{series} in {label}", series=self.drawn.series[cell.series], label=self.drawn.labels[cell.label])

    def difference(self) -> Question | None:
        pair = self.pair()
        if pair is None or not self.printed:
            return None
        one, other = sorted(pair, key=lambda cell: -cell.value)
        names = {"one": self.name(one), "other": self.name(other)}
        if self.random.random() < 0.25:
            total = self.chart.style.show(one.value + other.value)
            return self.question(self.said(SUM_OF_TWO, **names), unprinted(total), one.written)
        lead = self.chart.style.show(one.value - other.value)
        return self.question(self.said(DIFFERENCE, **names), unprinted(lead), one.written)

    def sum(self) -> Question | None:
        cells, series = self.ranked()
        if len(cells) > 5 or "%" in self.chart.style.suffix or "total" in self.drawn.texts:
            return None
        total = self.chart.style.show(math.fsum(cell.value for cell in cells))
        return self.question(self.about(self.said(SUM, things=self.things()), series), unprinted(total))

    def which_has(self) -> Question | None:
        cell = self.random.choice(self.cells)
        texts = [other.written.text for other in self.cells if other.written is not None]
        if cell.written is None or texts.count(cell.written.text) > 1:
            return None
        return self.question(
            self.said(WHICH_HAS, thing=self.thing() if self.one else "one", value=cell.written), self.drawn_name(cell),
            cell.written,
        )  # fmt: skip

    # Counts ------------------------------------------------------------------------------------

    def count(self) -> Question | None:
        chart = self.chart
        choices: list[tuple[str, int]] = []
        if chart.kind in ("scatter", "pie", "donut", "donut_total") or (
            self.one and chart.kind not in ("line", "area")
        ):
            choices.append((MARKS.get(chart.kind, "bar") + "s", len(self.cells)))
        if chart.kind in ("grouped", "hgrouped"):
            choices.append(("bars", len(self.cells)))
        if chart.stacked:
            choices.append(("bars", len(chart.labels)))
        if chart.kind != "scatter":
            choices += [(name, len(chart.labels)) for name in ("categories", "labels")]
            noun = noun_of(chart.labels) or chart.category_title.lower()
            choices += [(self.things(noun), len(chart.labels))] * 2 if noun else []
        if not self.one:
            choices += [
                (name, len(chart.series))
                for name in ("series", "legend entries", "colors")[: 3 if self.drawn.colors else 2]
            ]
        if chart.kind == "line":
            choices.append(("lines", len(chart.series)))
        things, number = self.random.choice(choices)
        return self.question(self.said(COUNT, things=things), unprinted(str(number)))

    def above(self) -> Question | None:
        if not self.readable or (self.chart.stacked and not self.printed):
            return None
        cells, series = self.ranked()
        step = (
            self.chart.axis.step / 2 if self.chart.axis else 10.0 ** math.floor(math.log10(max(self.span, 1e-6)) - 0.3)
        )
        lowest, highest = cells[0].value, cells[-1].value
        limit = round(self.random.uniform(lowest, highest) / step) * step
        if not lowest < limit < highest or any(abs(cell.value - limit) < CLEARLY * self.span for cell in cells):
            return None
        up = self.random.random() < 0.65
        number = sum((cell.value > limit) == up for cell in cells)
        style = self.chart.style if self.chart.axis is None else self.chart.axis.style
        text = style.show_finer(limit)
        text = text if style.decimals == 0 or limit % 1 else text.replace(f".{'0' * style.decimals}", "", 1)
        asked = self.said(ABOVE if up else BELOW, things=self.things(), limit=text)
        return self.question(self.about(asked, series), unprinted(str(number)))

    # Texts -------------------------------------------------------------------------------------

    def title(self) -> Question | None:
        title, subtitle = self.drawn.texts.get("title"), self.drawn.texts.get("subtitle")
        if subtitle is not None and self.random.random() < 0.4:
            return self.question(self.said(SUBTITLE), subtitle, subtitle)
        if title is None:
            if self.random.random() < 0.6:
                return None
            return self.missing(TITLE[:9])
        return self.question(self.said(TITLE), title, title)

    def missing(self, templates: Sequence[str], **pieces: Written | str) -> Question:
        return self.question(self.said(templates, **pieces), unprinted(NOT_SHOWN), skill="absent")

    def axis_names(self) -> dict[str, str]:
        """How the axes are called, and which title each has."""
        across, up = ("value_title", "category_title") if self.chart.lying else ("category_title", "value_title")
        return {"x": across, "horizontal": across, "y": up, "vertical": up, "X": across, "Y": up}

    def axis_title(self) -> Question | None:
        if self.chart.round:
            return None
        axis, name = self.random.choice(list(self.axis_names().items()))
        title = self.drawn.texts.get(name)
        if title is None:
            if self.random.random() < 0.8:
                return None
            return self.missing(("What is the {axis} axis title?", "What is the title of the {axis} axis?",
                                 "Read the {axis} axis title."), axis=axis)  # fmt: skip
        return self.question(self.said(AXIS_TITLE, axis=axis), title, title)

    def tick(self) -> Question | None:
        ticks, axes = self.drawn.ticks, ("x", "horizontal") if self.chart.lying else ("y", "vertical")
        if self.chart.kind == "scatter" and self.random.random() < 0.5:
            ticks, axes = self.drawn.across_ticks, ("x", "horizontal")
        if not ticks:
            return None
        largest = self.random.random() < 0.75
        tick = (max if largest else min)(ticks, key=lambda tick: tick[0])[1]
        asked = self.said(LARGEST_TICK if largest else SMALLEST_TICK, axis=self.random.choice(axes))
        return self.question(asked, tick, tick)

    def unit(self) -> Question | None:
        title, unit = self.drawn.texts.get("value_title"), self.chart.unit
        if title is None or not unit:
            return None
        start = title.text.rindex(unit)
        answer = title[start : start + len(unit)]
        return self.question(self.said(UNIT, axis="x" if self.chart.lying else "y"), answer, answer)

    def names(self) -> Question | None:
        separator = ", "
        if self.drawn.series and not self.one and self.random.random() < 0.5:
            return self.question(self.said(SERIES_NAMES), joined(self.drawn.series, separator), self.drawn.series[0])
        if len(self.drawn.labels) > 8 or self.chart.kind == "scatter":
            return None
        asked = self.said(LABELS, things=self.things())
        return self.question(asked, joined(self.drawn.labels, separator), self.drawn.labels[0])

    def kind(self) -> Question | None:
        return self.question(self.said(KIND), unprinted(KIND_NAMES[self.chart.kind]))

    def color(self) -> Question | None:
        names = self.drawn.labels if self.chart.round else self.drawn.series
        colors = [color_name(color) for color in self.drawn.colors]
        if not names or len(colors) != len(names):
            return None
        at = self.random.randrange(len(names))
        if not colors[at] or colors.count(colors[at]) > 1 or (len(names) > 1 and not all(colors)):
            return None
        if self.random.random() < 0.6:
            return self.question(self.said(COLOR, series=names[at]), unprinted(colors[at]), names[at])
        mark, thing = MARKS.get(self.chart.kind, "bar"), "slice" if self.chart.round else "series"
        asked = self.said(BY_COLOR, color=colors[at], mark=mark, thing=thing)
        return self.question(asked, names[at], names[at])

    def absent(self) -> Question | None:
        gaps = [
            (series, label)
            for series, row in enumerate(self.chart.values)
            for label, value in enumerate(row)
            if value is None
        ]
        if gaps and self.random.random() < 0.7:
            series, label = self.random.choice(gaps)
            pieces = {"label": self.drawn.labels[label]}
            if self.one:
                return self.missing(VALUE, **pieces)
            return self.missing(SERIES_VALUE, series=self.drawn.series[series], **pieces)
        known = " ".join([*self.chart.labels, *self.chart.series]).lower()
        other = self.random.choice(words.label_set(self.random, 3))
        if other.lower() in known or any(label.lower() in other.lower() for label in self.chart.labels):
            return None
        if self.one:
            return self.missing(VALUE, label=other)
        if self.random.random() < 0.5:
            return self.missing(SERIES_VALUE, series=self.random.choice(self.drawn.series), label=other)
        return self.missing(SERIES_VALUE, series=other, label=self.random.choice(self.drawn.labels))

    # Tables ------------------------------------------------------------------------------------

    def everything(self) -> Question | None:
        if self.chart.kind == "scatter" or len(self.cells) > 24:
            return None
        if self.one:
            answer = self.table_of(0)
        else:
            answer = as_json([(name, self.table_of(at)) for at, name in enumerate(self.drawn.series)], nested=True)
        middle = sorted(abs(cell.value) for cell in self.cells)[len(self.cells) // 2]
        return self.question(
            self.said(ALL, things=self.things(), thing=self.thing()),
            answer,
            self.drawn.labels[0],
            self.tolerance(middle),
        )

    def table_of(self, series: int) -> Written:
        return as_json([(label, self.cell_text(series, at)) for at, label in enumerate(self.drawn.labels)])

    def cell_text(self, series: int, label: int) -> Written | None:
        cell = next((cell for cell in self.cells if (cell.series, cell.label) == (series, label)), None)
        return None if cell is None else self.shown(cell)

    def everything_of(self) -> Question | None:
        """The values of one series, or of one label."""
        if self.random.random() < 0.6:
            at = self.random.randrange(len(self.chart.series))
            return self.question(
                self.said(ALL_OF, name=self.drawn.series[at]), self.table_of(at), self.drawn.series[at]
            )
        at = self.random.randrange(len(self.chart.labels))
        pairs = [(name, self.cell_text(series, at)) for series, name in enumerate(self.drawn.series)]
        return self.question(self.said(ALL_OF, name=self.drawn.labels[at]), as_json(pairs), self.drawn.labels[at])

    def some(self) -> Question | None:
        """Two of the labels, in the order they were asked for."""
        if not self.one or len(self.cells) < 3:
            return None
        one, other = self.random.sample(self.cells, 2)
        labels = {"one": self.drawn.labels[one.label], "other": self.drawn.labels[other.label]}
        answer = as_json([(labels["one"], one.written), (labels["other"], other.written)])
        return self.question(self.said(SOME, **labels), answer, one.written)

    # What only some kinds have -----------------------------------------------------------------

    def trend(self) -> Question | None:
        cells = [cell for cell in self.cells if cell.series == 0]
        if not self.one or len(cells) < 3 or not noun_of(self.chart.labels):
            return None
        values = [cell.value for cell in cells]
        steps = [after - before for before, after in itertools.pairwise(values)]
        if (min(steps) > 0 or max(steps) < 0) and self.random.random() < 0.7:
            text = "increasing" if steps[0] > 0 else "decreasing"
            return self.question(self.said(TRENDING), unprinted(text))
        at, until = sorted(self.random.sample(range(len(cells)), 2))
        one, other = cells[at], cells[until]
        if not self.apart(one.value, other.value):
            return None
        names = {"one": self.drawn.labels[one.label], "other": self.drawn.labels[other.label]}
        text = "increase" if other.value > one.value else "decrease"
        return self.question(self.said(TREND, **names), unprinted(text), self.clue(other))

    def across(self) -> Question | None:
        axis = self.chart.across_axis
        at = self.random.randrange(len(self.chart.labels))
        value = self.chart.across[at]
        if axis is None or abs(value) < 1e-9 or not self.drawn.across_ticks:
            return None
        text = axis.style.show_finer(value)
        clue = min(self.drawn.across_ticks, key=lambda tick: abs(tick[0] - value))[1]
        answer = clue if clue.text == text else unprinted(text)
        tolerance = min(1.0, READING_ERROR * axis.span / abs(value))
        return self.question(self.said(ACROSS, label=self.label(at)), answer, clue, tolerance)

    def outermost(self) -> Question | None:
        axis = self.chart.across_axis
        right = self.random.random() < 0.5
        ranked = sorted(range(len(self.chart.labels)), key=lambda at: self.chart.across[at], reverse=right)
        first, second = (self.chart.across[at] for at in ranked[:2])
        if axis is None or abs(first - second) < CLEARLY * axis.span:
            return None
        return self.question(self.said(RIGHTMOST if right else LEFTMOST), self.drawn.labels[ranked[0]])

    def stack_total(self) -> Question | None:
        at = self.random.randrange(len(self.chart.labels))
        total = self.chart.total(at)
        if not self.readable:
            return None
        asked = self.said(STACK_TOTAL, label=self.label(at))
        if self.printed:
            return self.question(asked, unprinted(self.chart.style.show(total)), self.drawn.labels[at])
        return self.question(asked, unprinted(self.said_value(total)), self.nearest_tick(total), self.tolerance(total))

    def total(self) -> Question | None:
        total = self.drawn.texts["total"]
        return self.question(self.said(TOTAL), total, total)


def as_json(items: Sequence[tuple[Written, Written | None]], nested: bool = False) -> Written:
    """What json.dumps gives: plain numbers bare, everything else quoted, null for what is not shown."""
    parts = [unprinted("{")]
    for number, (key, value) in enumerate(items):
        quote = "" if value is None or nested or PLAIN_NUMBER.fullmatch(value.text) else '"'
        shown = unprinted("null") if value is None else value
        parts += [unprinted(', "' if number else '"'), key, unprinted(f'": {quote}'), shown, unprinted(quote)]
    return joined([*parts, unprinted("}")])
