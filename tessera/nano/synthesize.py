"""Draws labelled pictures from a seed: text to transcribe, charts and tables, receipts.

The same seed, difficulty, style and fonts give the same sample, on any machine with the same font
files. Values of a chart are always printed, so that answering is finding and reading, not measuring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import ImageFont

from tessera.nano import phrases
from tessera.nano.canvas import Canvas, Color, Glyph, Sample, Written, filled, joined, unprinted
from tessera.nano.fonts import TRAINED_FILES, UNSEEN_FILES, Fonts, installed

__all__ = ["TRAINED", "UNSEEN_FONTS", "UNSEEN_LAYOUTS", "Glyph", "Sample", "Style", "draw"]

LARGEST_TEXT = (352, 160)
LARGEST_CHART = (288, 224)
LARGEST_RECEIPT = (224, 320)
BLACK: Color = (0, 0, 0)
GREY: Color = (200, 200, 200)
PALETTES: tuple[tuple[Color, ...], ...] = (
    ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75)),
    ((66, 133, 244), (219, 68, 55), (244, 180, 0), (15, 157, 88), (171, 71, 188), (0, 172, 193)),
    ((68, 114, 196), (237, 125, 49), (165, 165, 165), (255, 192, 0), (91, 155, 213), (112, 173, 71)),
    ((76, 114, 176), (221, 132, 82), (85, 168, 104), (196, 78, 82), (129, 114, 179), (147, 120, 96)),
    ((120, 160, 200), (200, 120, 120), (130, 190, 130), (210, 180, 100), (160, 140, 200), (120, 190, 190)),
)


@dataclass(frozen=True)
class Style:
    """Which typefaces and which layouts may be used."""

    font_files: tuple[str, ...] = TRAINED_FILES
    unseen_layouts: bool = False


TRAINED = Style()
UNSEEN_FONTS = Style(font_files=UNSEEN_FILES)
UNSEEN_LAYOUTS = Style(unseen_layouts=True)


def draw(
    seed: int, difficulty: float = 1.0, style: Style = TRAINED, skill: str | None = None, fonts: Fonts | None = None
) -> Sample:
    """One labelled sample; difficulty runs from 0 (one large word) to 1, skill None draws the mix."""
    random = Random(seed)
    brush = Brush(random, difficulty, style, fonts or installed(style.font_files))
    kinds = {"transcribe": draw_text, "chart": draw_chart, "receipt": draw_receipt}
    share = max(0.0, min(1.0, difficulty * 2 - 0.1))
    weights = (1 - 0.58 * share, 0.38 * share, 0.2 * share)
    return kinds[skill or random.choices(list(kinds), weights)[0]](brush)


@dataclass
class Brush:
    """What every picture is drawn with."""

    random: Random
    difficulty: float
    style: Style
    fonts: Fonts

    def face(self) -> int:
        return self.random.randrange(len(self.fonts))

    def size(self, smallest: int, largest: int) -> int:
        """A type size: large when easy, anything down to `smallest` when hard."""
        lowest = largest - (largest - smallest) * self.difficulty
        return self.random.randint(round(lowest), largest)

    def colors(self) -> tuple[Color, Color]:
        """Background and ink with enough contrast to read."""
        pick = self.random
        if self.difficulty < 0.2 or pick.random() < 0.4:
            return (255, 255, 255), BLACK
        light: Color = (pick.randint(215, 255), pick.randint(215, 255), pick.randint(205, 255))
        dark: Color = (pick.randint(0, 110), pick.randint(0, 90), pick.randint(0, 120))
        return (dark, light) if pick.random() < 0.2 else (light, dark)


# Text ----------------------------------------------------------------------------------------

READ_QUESTIONS = (
    "Read the text.", "What does it say?", "Transcribe the text.", "What is written here?", "Read this.",
    "What does the picture say?", "Transcribe this picture.", "Write down the text.", "What text is in the image?",
)  # fmt: skip


def draw_text(brush: Brush) -> Sample:
    """One to four lines, flush left or centred."""
    random, difficulty = brush.random, brush.difficulty
    font = brush.fonts.font(brush.face(), brush.size(13, 30))
    widest = LARGEST_TEXT[0] - 30
    # Letters are about half as wide as the type is high.
    longest = max(4, min(round(7 + 19 * difficulty), int(widest / (0.55 * font.size))))
    count = random.randint(1, 1 + round(3 * difficulty))
    leading = font.size * random.uniform(1.2, 1.6)
    count = max(1, min(count, int((LARGEST_TEXT[1] - 30) / leading)))
    lines = [phrases.line(random, longest) for _ in range(count)]
    while max(map(font.getlength, lines)) > widest:
        lines = [text[:-1].rstrip() if font.getlength(text) > widest else text for text in lines]
    text_width = max(map(font.getlength, lines))
    left, right, top, bottom = (random.uniform(3, 4 + 16 * difficulty) for _ in range(4))
    background, ink = brush.colors()
    canvas = Canvas(left + text_width + right, top + leading * (count - 1) + font.size * 1.3 + bottom, background)
    align = 1.0 if brush.style.unseen_layouts else random.choice((0.0, 0.0, 0.5))
    if brush.style.unseen_layouts:
        _ruled_gradient(canvas, background, ink)
    written = [
        canvas.write(left + align * text_width, top + font.size + row * leading, text, font, ink, align)
        for row, text in enumerate(lines)
    ]
    if random.random() < 0.35 * difficulty:
        canvas.skew(random.uniform(-2.5, 2.5))
    canvas.wear(random, difficulty)
    answer = [part for text in written for part in (unprinted("\n"), text)][1:]
    return canvas.sample(random.choice(READ_QUESTIONS), joined(answer), "transcribe")


def _ruled_gradient(canvas: Canvas, background: Color, ink: Color) -> None:
    width, height = canvas.image.size
    for y in range(height):
        shade = y / height * 0.12
        row = tuple(round(b + (i - b) * shade) for b, i in zip(background, ink, strict=True))
        canvas.pen.line((0, y, width, y), fill=(row[0], row[1], row[2]))
    canvas.pen.rectangle((1, 1, width - 2, height - 2), outline=ink)


# Charts and tables ---------------------------------------------------------------------------

VALUE_QUESTIONS = (
    "What is the value of {label}?", "What value does {label} have?", "How much is {label}?", "Value of {label}?",
    "What number belongs to {label}?", "Read the value of {label}.", "What is {label}?",
    "Tell me the value for {label}.",
)  # fmt: skip
HIGHEST_QUESTIONS = (
    "Which {thing} is highest?", "Which {thing} is the largest?", "Which {thing} has the highest value?",
    "What is the highest {thing}?", "Which {thing} is biggest?", "Name the {thing} with the highest value.",
    "Which {thing} has the most?", "What {thing} is the maximum?",
)  # fmt: skip
LOWEST_QUESTIONS = (
    "Which {thing} is lowest?", "Which {thing} is the smallest?", "Which {thing} has the lowest value?",
    "What is the lowest {thing}?", "Name the {thing} with the lowest value.", "Which {thing} has the least?",
    "What {thing} is the minimum?",
)  # fmt: skip
LIST_QUESTIONS = (
    "List all values as JSON.", "Give all values as JSON.", "All values as JSON, please.", "Return the data as JSON.",
    "Extract the values as JSON.", "What are the values? Answer as JSON.", "Convert this to JSON.", "List all as JSON.",
)  # fmt: skip
CELL_QUESTIONS = (
    "What is the {column} of {label}?", "What is {column} for {label}?", "Give the {column} of {label}.",
    "{column} of {label}?", "How much {column} has {label}?",
)  # fmt: skip
COLUMNS = ("Price", "Count", "Sales", "Score", "Stock", "Units", "Cost", "Age", "Size", "Rank")
HEADS = ("Item", "Name", "Label", "Group", "Type", "Team")


@dataclass(frozen=True)
class Series:
    """The data of a chart before drawing, and its text pieces after."""

    labels: list[str]
    values: list[str]


def draw_chart(brush: Brush) -> Sample:
    """A bar, line or pie chart or a small table, each value printed."""
    random = brush.random
    unseen = brush.style.unseen_layouts
    most = 3 + round(3 * brush.difficulty)
    count = random.randint(3, most)
    series = Series(phrases.labels(random, count), phrases.values(random, count))
    # There is no line chart held out, and a trained one would flatter the unseen layouts' score.
    kind = random.choices(("bar", "line", "pie", "table"), (0.35, 0.0 if unseen else 0.2, 0.2, 0.25))[0]
    if kind == "table":
        return _draw_table(brush, series)
    painters = {"bar": _paint_rows if unseen else _paint_bars, "line": _paint_line, "pie": _paint_pie}
    canvas, labels, values = painters[kind](brush, series)
    canvas.wear(random, brush.difficulty)
    thing = random.choice(({"bar": "bar", "line": "point", "pie": "slice"}[kind], "item", "label", "one", "category"))
    question, answer, clue = _ask_series(random, thing, labels, values)
    return canvas.sample(question, answer, "chart", clue)


def _ask_series(
    random: Random, thing: str, labels: list[Written], values: list[Written]
) -> tuple[Written, Written, Written | None]:
    """A question, its answer, and the clue to the answer where the question does not quote one."""
    kind = random.choices(("value", "highest", "lowest", "list"), (0.45, 0.17, 0.17, 0.21))[0]
    if kind == "value":
        index = random.randrange(len(labels))
        return filled(random.choice(VALUE_QUESTIONS), label=labels[index]), values[index], None
    if kind == "list":
        return unprinted(random.choice(LIST_QUESTIONS)), _json_object(list(zip(labels, values, strict=True))), None
    ranked = sorted(range(len(values)), key=lambda index: phrases.number(values[index].text))
    questions, index = (HIGHEST_QUESTIONS, ranked[-1]) if kind == "highest" else (LOWEST_QUESTIONS, ranked[0])
    return filled(random.choice(questions), thing=unprinted(thing)), labels[index], values[index]


def _json_object(items: list[tuple[Written, Written]]) -> Written:
    """What json.dumps gives: numbers bare, everything else quoted."""
    parts = [unprinted("{")]
    for number, (key, value) in enumerate(items):
        quote = "" if value.text.replace(".", "", 1).isdigit() else '"'
        parts += [unprinted(', "' if number else '"'), key, unprinted(f'": {quote}'), value, unprinted(quote)]
    return joined([*parts, unprinted("}")])


Painted = tuple[Canvas, list[Written], list[Written]]


def _slots(font: ImageFont.FreeTypeFont, series: Series, widest: float) -> tuple[Series, float]:
    """The width each category takes side by side, and as many categories as fit."""
    slot = max(font.getlength(text) for text in (*series.labels, *series.values)) + 7
    count = max(2, min(len(series.labels), int(widest / slot)))
    return Series(series.labels[:count], series.values[:count]), slot


def _titled(brush: Brush, canvas: Canvas, font: ImageFont.FreeTypeFont, middle: float, ink: Color) -> None:
    canvas.write(middle, font.size * 1.1, brush.random.choice(phrases.TITLES), font, ink, 0.5)


def _frame(brush: Brush, series: Series, smallest: int) -> tuple[Canvas, ImageFont.FreeTypeFont, Series, list[float], float, float, Color]:  # fmt: skip # noqa: E501
    """An upright chart's canvas with axes: its columns' middles, top and bottom of the plot, and ink."""
    random = brush.random
    font = brush.fonts.font(brush.face(), brush.size(smallest, 18))
    left = random.uniform(6, 20)
    series, slot = _slots(font, series, LARGEST_CHART[0] - left - 12)
    slot = min(slot * random.uniform(1.0, 1.5), (LARGEST_CHART[0] - left - 10) / len(series.labels))
    width = left + slot * len(series.labels) + random.uniform(4, 10)
    title = random.random() < 0.4
    top = font.size * (3.0 if title else 1.7)
    bottom = random.uniform(top + 50, LARGEST_CHART[1] - font.size * 1.6)
    background: Color = (255, 255, 255) if random.random() < 0.7 else (random.randint(235, 255),) * 3
    ink: Color = BLACK if random.random() < 0.6 else (random.randint(20, 100),) * 3
    canvas = Canvas(width, bottom + font.size * 1.6, background)
    if random.random() < 0.3:
        for line in range(4):
            y = top + (bottom - top) * line / 4
            canvas.pen.line((left, y, width - 3, y), fill=(225, 225, 225))
    if random.random() < 0.7:
        canvas.pen.line((left, bottom, width - 3, bottom), fill=ink)
    if random.random() < 0.5:
        canvas.pen.line((left, top - 4, left, bottom), fill=ink)
    if title:
        _titled(brush, canvas, font, width / 2, ink)
    middles = [left + slot * (index + 0.5) for index in range(len(series.labels))]
    return canvas, font, series, middles, top, bottom, ink


def _heights(series: Series, span: float) -> list[float]:
    numbers = [phrases.number(value) for value in series.values]
    return [max(2.0, span * value / max(numbers)) for value in numbers]


def _paint_bars(brush: Brush, series: Series) -> Painted:
    canvas, font, series, middles, top, bottom, ink = _frame(brush, series, 11)
    random = brush.random
    palette = random.choice(PALETTES)
    one_color = random.random() < 0.6
    first = random.randrange(len(palette))
    half = (middles[1] - middles[0]) * random.uniform(0.25, 0.42)
    labels, values = [], []
    for index, height in enumerate(_heights(series, bottom - top)):
        color = palette[(first if one_color else first + index) % len(palette)]
        x = middles[index]
        canvas.pen.rectangle((x - half, bottom - height, x + half, bottom), fill=color)
        values.append(canvas.write(x, bottom - height - 3, series.values[index], font, ink, 0.5))
        labels.append(canvas.write(x, bottom + font.size * 1.15, series.labels[index], font, ink, 0.5))
    return canvas, labels, values


def _paint_line(brush: Brush, series: Series) -> Painted:
    canvas, font, series, middles, top, bottom, ink = _frame(brush, series, 11)
    random = brush.random
    color = random.choice(random.choice(PALETTES))
    points = [(x, bottom - h * 0.92) for x, h in zip(middles, _heights(series, bottom - top), strict=True)]
    canvas.pen.line(points, fill=color, width=random.choice((1, 2, 2)))
    labels, values = [], []
    for index, (x, y) in enumerate(points):
        canvas.pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
        values.append(canvas.write(x, y - 5, series.values[index], font, ink, 0.5))
        labels.append(canvas.write(x, bottom + font.size * 1.15, series.labels[index], font, ink, 0.5))
    return canvas, labels, values


def _paint_pie(brush: Brush, series: Series) -> Painted:
    """A pie, or a donut in the unseen layouts, with a legend that names each slice and its value."""
    random = brush.random
    font = brush.fonts.font(brush.face(), brush.size(11, 17))
    leading = font.size * random.uniform(1.25, 1.6)
    entry = max(font.getlength(f"{label}  {value}") for label, value in zip(series.labels, series.values, strict=True))
    diameter = random.uniform(60, min(120, LARGEST_CHART[0] - entry - 40))
    title = random.random() < 0.3
    top = font.size * 1.9 if title else 8.0
    height = max(diameter, leading * len(series.labels)) + top + 8
    canvas = Canvas(diameter + entry + 38, height, (255, 255, 255))
    if title:
        _titled(brush, canvas, font, canvas.image.width / 2, BLACK)
    palette = random.choice(PALETTES)
    numbers = [phrases.number(value) for value in series.values]
    angle = random.uniform(0, 360)
    middle = top + (height - top - 8) / 2
    box = (6, middle - diameter / 2, 6 + diameter, middle + diameter / 2)
    labels, values = [], []
    separator = random.choice(("  ", " ", ": ", " - "))
    for index, (label, value) in enumerate(zip(series.labels, series.values, strict=True)):
        sweep = 360 * numbers[index] / sum(numbers)
        canvas.pen.pieslice(box, angle, angle + sweep, fill=palette[index % len(palette)], outline=(255, 255, 255))
        angle += sweep
        baseline = middle + (index - (len(numbers) - 1) / 2) * leading + font.size * 0.35
        x = 16 + diameter
        canvas.pen.rectangle((x, baseline - 8, x + 8, baseline), fill=palette[index % len(palette)])
        labels.append(canvas.write(x + 13, baseline, label, font, BLACK))
        x += 13 + font.getlength(label)
        if separator.strip():
            canvas.write(x, baseline, separator.rstrip(), font, BLACK)
        values.append(canvas.write(x + font.getlength(separator), baseline, value, font, BLACK))
    if brush.style.unseen_layouts:
        inner = diameter * 0.22
        centre_x, centre_y = 6 + diameter / 2, middle
        canvas.pen.ellipse(
            (centre_x - inner, centre_y - inner, centre_x + inner, centre_y + inner), fill=(255, 255, 255)
        )
    return canvas, labels, values


def _paint_rows(brush: Brush, series: Series) -> Painted:
    """Horizontal bars, a layout that is never trained on."""
    random = brush.random
    font = brush.fonts.font(brush.face(), brush.size(11, 16))
    leading = font.size * 1.7
    label_width = max(map(font.getlength, series.labels))
    value_width = max(map(font.getlength, series.values))
    longest = random.uniform(50, LARGEST_CHART[0] - label_width - value_width - 24)
    canvas = Canvas(label_width + longest + value_width + 22, leading * len(series.labels) + 10, (255, 255, 255))
    color = random.choice(random.choice(PALETTES))
    labels, values = [], []
    for index, length in enumerate(_heights(series, longest)):
        baseline = 5 + leading * (index + 0.75)
        x = label_width + 8
        canvas.pen.rectangle((x, baseline - font.size * 0.8, x + length, baseline + font.size * 0.15), fill=color)
        labels.append(canvas.write(x - 4, baseline, series.labels[index], font, BLACK, 1.0))
        values.append(canvas.write(x + length + 4, baseline, series.values[index], font, BLACK))
    return canvas, labels, values


def _draw_table(brush: Brush, series: Series) -> Sample:
    """Two or three columns under a header, ruled or plain (zebra stripes only in the unseen layouts)."""
    random = brush.random
    font = brush.fonts.font(brush.face(), brush.size(11, 17))
    columns = [series.values]
    if random.random() < 0.35:
        columns.append(phrases.values(random, len(series.labels)))
    heads = [random.choice(HEADS), *random.sample(COLUMNS, len(columns))]
    cells = [heads, *([label, *row] for label, *row in zip(series.labels, *columns, strict=True))]
    padding = random.uniform(5, 12)
    widths = [max(font.getlength(row[c]) for row in cells) + 2 * padding for c in range(len(heads))]
    leading = font.size * random.uniform(1.35, 1.75)
    margin = random.uniform(2, 8)
    canvas = Canvas(sum(widths) + 2 * margin, leading * len(cells) + 2 * margin, (255, 255, 255))
    _rule_table(brush, canvas, widths, leading, len(cells), margin)
    right = random.random() < 0.6
    written: list[list[Written]] = []
    for row, texts in enumerate(cells):
        baseline, x = margin + leading * row + leading / 2 + font.size * 0.35, margin
        written.append([])
        for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
            align = 1.0 if column and right else 0.0
            edge = x + width - padding if align else x + padding
            written[-1].append(canvas.write(edge, baseline, text, font, BLACK, align))
            x += width
    canvas.wear(random, brush.difficulty)
    labels = [row[0] for row in written[1:]]
    if len(columns) == 1:
        question, answer, clue = _ask_series(
            random, random.choice(("row", "item", "one")), labels, [row[1] for row in written[1:]]
        )
    else:
        row, column = random.randrange(len(labels)), random.randrange(len(columns))
        question = filled(random.choice(CELL_QUESTIONS), column=written[0][column + 1], label=labels[row])
        answer, clue = written[row + 1][column + 1], None
    return canvas.sample(question, answer, "chart", clue)


def _rule_table(brush: Brush, canvas: Canvas, widths: list[float], leading: float, rows: int, margin: float) -> None:
    random, width = brush.random, sum(widths)
    if brush.style.unseen_layouts:
        for row in range(0, rows, 2):
            canvas.pen.rectangle(
                (margin, margin + leading * row, margin + width, margin + leading * (row + 1)), (232, 238, 246)
            )
        return
    if random.random() < 0.5:
        canvas.pen.rectangle((margin, margin, margin + width, margin + leading), fill=(random.randint(200, 240),) * 3)
    color = random.choice((BLACK, GREY, (120, 120, 120)))
    kind = random.choice(("grid", "rows", "head", "none"))
    for row in range(rows + 1):
        if kind in ("grid", "rows") or (kind == "head" and row == 1):
            y = margin + leading * row
            canvas.pen.line((margin, y, margin + width, y), fill=color)
    if kind == "grid":
        x = margin
        for column_width in (0.0, *widths):
            x += column_width
            canvas.pen.line((x, margin, x, margin + leading * rows), fill=color)


# Receipts ------------------------------------------------------------------------------------

FIELDS_QUESTIONS = (
    "Give vendor, date and total as JSON.", "Extract vendor, date and total as JSON.", "Read the receipt as JSON.",
    "Return vendor, date and total as JSON.", "Extract the fields as JSON.", "Convert this receipt to JSON.",
    "List vendor, date, total as JSON.",
)  # fmt: skip
TOTAL_QUESTIONS = (
    "What is the total?", "How much is the total?", "Total?", "What was paid in total?", "What is the total amount?",
    "How much was it?", "Read the total.", "What does it cost in total?",
)  # fmt: skip
VENDOR_QUESTIONS = (
    "Who is the vendor?", "What shop is this from?", "Which store is this from?", "What is the name of the shop?",
    "Vendor?", "Where was this bought?", "Who sold this?",
)  # fmt: skip
DATE_QUESTIONS = (
    "What is the date?", "When was this bought?", "Date?", "What date is on the receipt?", "Which date is printed?",
    "When was the purchase?",
)  # fmt: skip
MONO = ("Mono", "Courier", "Hack", "Inconsolata", "FiraCode")


def draw_receipt(brush: Brush) -> Sample:
    """A till receipt; in the unseen layouts the total stands first, boxed, and the vendor last."""
    random, unseen = brush.random, brush.style.unseen_layouts
    faces = [i for i, path in enumerate(brush.fonts.paths) if path and any(name in path.name for name in MONO)]
    face = random.choice(faces) if faces and random.random() < 0.5 else brush.face()
    font = brush.fonts.font(face, brush.size(11, 16))
    leading = font.size * random.uniform(1.2, 1.45)
    width = min(LARGEST_RECEIPT[0], font.size * random.uniform(12, 15))
    paper: Color = (
        (255, 255, 255)
        if random.random() < 0.6
        else (random.randint(238, 255), random.randint(238, 252), random.randint(230, 250))
    )
    canvas = Canvas(width, LARGEST_RECEIPT[1], paper)
    till = Till(canvas, font, leading, random.uniform(5, 10), (random.randint(0, 70),) * 3)
    fields: dict[str, Written] = {}
    parts = [_print_vendor, _print_heading, _print_items, _print_total]
    for part in (parts[3], parts[1], parts[2], parts[0]) if unseen else parts:
        part(brush, till, fields)
    if random.random() < 0.3 and till.rows_left() > 1:
        till.feed(0.4)
        till.centred(random.choice(("Thank you!", "THANK YOU", "Come again", "Have a nice day", "Goodbye")))
    canvas.image = canvas.image.crop((0, 0, canvas.image.width, math.ceil(till.y + random.uniform(6, 14))))
    if random.random() < 0.25 * brush.difficulty:
        canvas.skew(random.uniform(-1.5, 1.5))
    canvas.wear(random, brush.difficulty)
    kind = random.choices(("all", "total", "vendor", "date"), (0.4, 0.25, 0.15, 0.2))[0]
    if kind == "all":
        items = [(unprinted(name), fields[name]) for name in ("vendor", "date", "total")]
        return canvas.sample(random.choice(FIELDS_QUESTIONS), _json_strings(items), "receipt")
    questions = {"total": TOTAL_QUESTIONS, "vendor": VENDOR_QUESTIONS, "date": DATE_QUESTIONS}[kind]
    return canvas.sample(random.choice(questions), fields[kind], "receipt")


def _json_strings(items: list[tuple[Written, Written]]) -> Written:
    parts = [unprinted("{")]
    for number, (key, value) in enumerate(items):
        parts += [unprinted(', "' if number else '"'), key, unprinted('": "'), value, unprinted('"')]
    return joined([*parts, unprinted("}")])


@dataclass
class Till:
    """Prints a receipt line by line."""

    canvas: Canvas
    font: ImageFont.FreeTypeFont
    leading: float
    margin: float
    ink: Color
    y: float = 4.0

    def feed(self, rows: float = 1.0) -> float:
        self.y += self.leading * rows
        return self.y

    def rows_left(self) -> int:
        return int((LARGEST_RECEIPT[1] - self.y - 10) / self.leading)

    def centred(self, text: str) -> Written:
        return self.canvas.write(self.canvas.image.width / 2, self.feed(), text, self.font, self.ink, 0.5)

    def left(self, text: str) -> Written:
        return self.canvas.write(self.margin, self.feed(), text, self.font, self.ink)

    def pair(self, name: str, amount: str) -> Written:
        """A name on the left, cut to fit, and an amount on the right of the same line."""
        baseline, right = self.feed(), self.canvas.image.width - self.margin
        room = right - self.margin - self.font.getlength(amount) - 6
        while name and self.font.getlength(name) > room:
            name = name[:-1].rstrip()
        self.canvas.write(self.margin, baseline, name, self.font, self.ink)
        return self.canvas.write(right, baseline, amount, self.font, self.ink, 1.0)

    def rule(self) -> None:
        y = self.y + self.leading * 0.45
        self.canvas.pen.line((self.margin, y, self.canvas.image.width - self.margin, y), fill=self.ink)
        self.feed(0.5)


def _print_vendor(brush: Brush, till: Till, fields: dict[str, Written]) -> None:
    random = brush.random
    vendor = phrases.shop(random)
    if random.random() < 0.25:
        vendor = vendor.upper()
    widest = till.canvas.image.width - 2 * till.margin
    while till.font.getlength(vendor) > widest and " " in vendor:
        vendor = vendor.rsplit(" ", 1)[0]
    fields["vendor"] = till.centred(vendor) if random.random() < 0.7 else till.left(vendor)


def _print_heading(brush: Brush, till: Till, fields: dict[str, Written]) -> None:
    random = brush.random
    if random.random() < 0.5 * brush.difficulty:
        till.centred(f"{random.randint(1, 999)} {phrases.made_up(random, 3, 6).capitalize()} St")
    if random.random() < 0.3 * brush.difficulty:
        till.centred(f"Tel {random.randint(100, 999)}-{random.randint(1000, 9999)}")
    till.feed(random.uniform(0, 0.5))
    date = phrases.date(random)
    baseline, x = till.feed(), till.margin
    lead = random.choice(("", "", "Date: ", "Date "))
    if lead:
        till.canvas.write(x, baseline, lead.rstrip(), till.font, till.ink)
        x += till.font.getlength(lead)
    fields["date"] = till.canvas.write(x, baseline, date, till.font, till.ink)
    clock = f"{random.randint(7, 22)}:{random.randint(0, 59):02}"
    right = till.canvas.image.width - till.margin
    fits = x + till.font.getlength(date) + 8 < right - till.font.getlength(clock)
    if fits and random.random() < 0.4:
        till.canvas.write(right, baseline, clock, till.font, till.ink, 1.0)
    if random.random() < 0.5:
        till.rule()


def _print_items(brush: Brush, till: Till, fields: dict[str, Written]) -> None:
    random = brush.random
    count = min(random.randint(1, 2 + round(3 * brush.difficulty)), max(1, till.rows_left() - 4))
    for _ in range(count):
        name = random.choice(phrases.GOODS) if random.random() < 0.7 else phrases.made_up(random, 3, 7).capitalize()
        till.pair(f"{random.randint(1, 4)} {name}" if random.random() < 0.2 else name, phrases.price(random, 40))
    if random.random() < 0.5:
        till.rule()
    if till.rows_left() > 3 and random.random() < 0.35 * brush.difficulty:
        till.pair("Subtotal", phrases.price(random, 100))
        till.pair(random.choice(("Tax", "VAT 7%", "VAT")), phrases.price(random, 9))


def _print_total(brush: Brush, till: Till, fields: dict[str, Written]) -> None:
    random = brush.random
    sign = random.choice(("", "", "$", "$", "€", "£"))
    total = sign + phrases.price(random, random.choice((20, 100, 500)))
    fields["total"] = till.pair(random.choice(("TOTAL", "Total", "TOTAL:", "Total:", "Amount due")), total)
    if brush.style.unseen_layouts:
        width = till.canvas.image.width
        till.canvas.pen.rectangle(
            (2, till.y - till.font.size * 1.05, width - 3, till.y + till.font.size * 0.35), outline=till.ink
        )
        till.feed(0.4)
    elif till.rows_left() > 2 and random.random() < 0.25 * brush.difficulty:
        till.pair(random.choice(("Cash", "Card", "VISA")), phrases.price(random, 500))
