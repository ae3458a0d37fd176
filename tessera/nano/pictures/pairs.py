"""Two pictures compared, and one picture turned: how pictures stand to each other, or to the reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from PIL import Image

from tessera.nano.pictures import words
from tessera.nano.pictures.canvas import SMALLEST_TYPE, Brush
from tessera.nano.pictures.page import Glyph, Page, Question, Written, shifted, side_by_side, unprinted
from tessera.nano.pictures.plain_sheets import TIGHT, Line, Sheet, draw_sheet
from tessera.nano.pictures.scene_questions import a, plural_of, say
from tessera.nano.pictures.scenes import paint_scene

EITHER = ("the first", "the second")
ORDINALS = ("first", "second")
PICTURES = ("picture", "image", "one")

# Two prices ---------------------------------------------------------------------------------------

DEARER = (
    "Which of the two is dearer?", "Which is dearer?", "Which is more expensive?", "Which one is more expensive?",
    "Which of the two is more expensive?", "Which costs more?", "Which one costs more?", "Which of the two costs more?",
    "Which picture shows the higher price?", "Which has the higher price?", "Which price is higher?", "What is dearer?",
    "Which is the dearer one?", "Which of these costs more?", "Which image shows the higher price?",
    "Name the dearer one.",
    "Is the first or the second dearer?", "Is the first or the second more expensive?", "Which one is pricier?",
    "Which is the more expensive of the two?",
)  # fmt: skip
CHEAPER = (
    "Which of the two is cheaper?", "Which is cheaper?", "Which one is cheaper?", "Which is less expensive?",
    "Which costs less?", "Which one costs less?", "Which of the two costs less?", "Which has the lower price?",
    "Which picture shows the lower price?", "Which price is lower?", "What is cheaper?", "Which is the cheaper one?",
    "Which of these costs less?", "Name the cheaper one.", "Is the first or the second cheaper?", "Which one is less?",
    "Which image shows the lower price?", "Which would be cheaper to buy?", "Which is the better price?",
    "Which is the cheaper of the two?",
)  # fmt: skip
MORE = (
    "Which total is higher?", "Which one has the higher total?", "Which picture has the higher total?",
    "Which of the two has the larger total?", "Which total is larger?", "Which receipt is higher?",
    "Which of the two receipts is higher?", "Which receipt has the higher total?", "Which one comes to more?",
    "Which sum is higher?", "Which one adds up to more?", "Which bill is higher?", "Where is the total higher?",
)  # fmt: skip
LESS = (
    "Which total is lower?", "Which one has the lower total?", "Which picture has the lower total?",
    "Which of the two has the smaller total?", "Which total is smaller?", "Which receipt is lower?",
    "Which receipt has the lower total?", "Which one comes to less?", "Which sum is lower?", "Which bill is lower?",
    "Where is the total lower?",
)  # fmt: skip
BY_HOW_MUCH = (
    "By how much?", "What is the difference?", "How large is the difference?", "How much is the difference?",
    "What is the difference between the two?", "By how much do they differ?", "What is the difference in price?",
    "How much more is the dearer one?", "How much more does the dearer one cost?",
    "How much cheaper is the cheaper one?",
    "What is the difference of the totals?", "Subtract the lower from the higher.", "How far apart are they?",
    "Give the difference.", "Difference?", "By how much is one higher?", "How much do I save with the cheaper one?",
)  # fmt: skip
EACH_PRICE = (
    "What is the price in the {n} {picture}?", "How much is the {n} one?", "What does the {n} one cost?",
    "Price of the {n} one?", "What price does the {n} {picture} show?", "How much does the {n} one cost?",
    "Read the price of the {n} {picture}.", "What is the {n} price?", "Give the {n} price.",
)  # fmt: skip
EACH_TOTAL = (
    "What is the total of the {n} {picture}?", "What is the {n} total?", "What is the total in the {n} {picture}?",
    "Total of the {n} one?", "Give the total of the {n} one.", "How much is the {n} total?", "Read the {n} total.",
)  # fmt: skip
TOTALS = ("Total", "TOTAL", "Total", "Amount due", "Sum", "To pay", "Grand total", "Balance due")


def draw_pair(brush: Brush) -> Page:
    """Two pictures, and questions that need both, or say which of them is meant."""
    makers = (_tags, _receipts, _texts, _bars, _scenes)
    return brush.random.choices(makers, (0.25, 0.2, 0.2, 0.15, 0.2))[0](brush)


def _half(brush: Brush) -> Brush:
    """A brush with the same dice for one picture of two."""
    return replace(brush, max_width=max(96, brush.max_width * 7 // 10), max_height=max(80, brush.max_height * 7 // 10))


def _ask(random: Random, templates: Sequence[str], answer: str | Written, clue: Written | None = None, **names: str) -> Question:  # fmt: skip # noqa: E501
    written = unprinted(answer) if isinstance(answer, str) else answer
    return Question(say(random, random.choice(templates), **names), written, "compare", clue)


def _two_amounts(random: Random) -> tuple[list[float], words.MoneyStyle]:
    """Two different amounts of one currency, often close to each other or of many digits alike."""
    style = words.money_style(random)
    one = words.amount(random)
    kind = random.random()
    other = one * random.uniform(0.5, 2) if kind < 0.5 else words.amount(random) if kind < 0.75 else one + random.uniform(-9, 9)  # fmt: skip # noqa: E501
    step = 10.0**-style.decimals
    values = [max(step, round(value, style.decimals)) for value in (one, other)]
    if values[0] == values[1]:
        values[1] += step * random.randint(1, 30)
    return values, style


def _tags(brush: Brush) -> Page:
    random = brush.random
    values, style = _two_amounts(random)
    sheets = []
    for value in values:
        name = words.product(random)[: random.randint(8, 22)].strip()
        price = style.show(value)
        on_one_line = random.random() < 0.5
        lines = [Line(name, price)] if on_one_line else [Line(name), Line(price)]
        if random.random() < 0.2:
            lines.append(Line(words.code(random)[:14]))
        sheets.append(draw_sheet(_half(brush), lines, _half(brush).max_height))
    prices = [(sheet.right[0] or sheet.left[1]) for sheet in sheets]
    return _priced(brush, sheets, prices, values, style, DEARER, CHEAPER, EACH_PRICE)


def _receipts(brush: Brush) -> Page:
    random = brush.random
    values, style = _two_amounts(random)
    word = random.choice(TOTALS)
    sheets, totals = [], []
    for value in values:
        shares = sorted(random.random() for _ in range(random.randint(0, 2)))
        parts = [high - low for low, high in zip([0.0, *shares], [*shares, 1.0], strict=True)]
        amounts = [round(value * part, style.decimals) for part in parts]
        amounts[-1] = value - sum(amounts[:-1])
        lines = [Line(words.company(random)[:20].strip())] if random.random() < 0.7 else []
        if random.random() < 0.4:
            lines.append(Line(words.date(random)))
        lines += [Line(words.product(random)[:14].strip(), style.show(amount)) for amount in amounts]
        lines.append(Line(word, style.show(value)))
        sheet = draw_sheet(_half(brush), lines, _half(brush).max_height)
        sheets.append(sheet)
        totals.append(sheet.right[-1] or sheet.left[-1])
    higher, lower = (MORE, LESS) if random.random() < 0.6 else (DEARER, CHEAPER)
    return _priced(brush, sheets, totals, values, style, higher, lower, EACH_TOTAL)


def _priced(
    brush: Brush, sheets: Sequence[Sheet], prices: Sequence[Written], values: Sequence[float], style: words.MoneyStyle,
    higher: Sequence[str], lower: Sequence[str], each: Sequence[str],
) -> Page:  # fmt: skip
    random = brush.random
    prices = _shifted(sheets, prices)
    most = int(values[1] > values[0])
    picked = random.randrange(2)
    picture = random.choice(PICTURES)
    questions = [
        _ask(random, higher, EITHER[most], prices[most]),
        _ask(random, lower, EITHER[1 - most], prices[1 - most]),
        _ask(random, each, prices[picked], n=ORDINALS[picked], picture=picture),
        _say_what(random, sheets, picked),
    ]
    if random.random() < 0.6:
        difference = style.show(round(abs(values[0] - values[1]), style.decimals))
        questions.append(_ask(random, BY_HOW_MUCH, difference, prices[most]))
    return side_by_side([sheet.canvas.page(()) for sheet in sheets], questions)


def _shifted(sheets: Sequence[Sheet], written: Sequence[Written]) -> list[Written]:
    return [written[0], shifted(written[1], len(sheets[0].canvas.glyphs))]


# Two texts ----------------------------------------------------------------------------------------

SAME = (
    "Do both say the same?", "Are the two the same text?", "Is the text the same?", "Do the two pictures say the same?",
    "Are both texts the same?", "Are they the same?", "Is the text in both pictures the same?", "Are the texts equal?",
    "Do they say the same?", "Is it the same text?", "Do both images have the same text?", "Are both texts identical?",
    "Is the second text the same as the first?", "Same text?", "Do the texts match?", "Is the text identical?",
    "Are these texts identical?", "Do both pictures show the same text?", "Are the words the same in both?",
    "Is the same text written in both?",
)  # fmt: skip
WHAT_EACH = (
    "What does the {n} {picture} say?", "Transcribe the {n} {picture}.", "Read the {n} {picture}.",
    "What is written in the {n} {picture}?", "What is in the {n} {picture}?", "What text is in the {n} {picture}?",
    "Transcribe the {n}.", "Read the {n} one.", "Text of the {n} {picture}?", "Write down the {n} {picture}.",
    "What does the {n} one say?", "Give the text of the {n} {picture}.", "What is written in the {n} one?",
)  # fmt: skip
WHERE_SAYS = (
    'Which picture says "{text}"?', 'Where does it say "{text}"?', 'Which one says "{text}"?', 'Which says "{text}"?',
    'Which of the two contains "{text}"?', 'In which picture is "{text}" written?', "Which picture shows {text}?",
    "Which one reads {text}?", "Which of the two says {text}?", "Where is {text} written?",
)  # fmt: skip


def _say_what(random: Random, sheets: Sequence[Sheet], picked: int) -> Question:
    answer = _shifted(sheets, [sheet.text for sheet in sheets])[picked]
    return _ask(random, WHAT_EACH, answer, n=ORDINALS[picked], picture=random.choice(PICTURES))


def _texts(brush: Brush) -> Page:
    random = brush.random
    longest = random.randint(4, 22)
    first = [words.line(random, longest) for _ in range(random.choice((1, 1, 2)))]
    kind = random.random()
    second = list(first)
    if kind < 0.3:
        second[-1] = _altered(random, second[-1])
    elif kind < 0.6:
        second = [words.line(random, longest) for _ in first]
    half = _half(brush)
    sheets = [draw_sheet(half, [Line(text) for text in lines], half.max_height) for lines in (first, second)]
    picked = random.randrange(2)
    same = sheets[0].text.text == sheets[1].text.text
    questions = [
        _ask(random, SAME, "yes" if same else "no", sheets[0].left[0]),
        _say_what(random, sheets, picked),
        _say_what(random, sheets, 1 - picked),
    ]
    if set(first).isdisjoint(second) and kind >= 0.3:
        text = _shifted(sheets, [sheet.left[0] for sheet in sheets])[picked]
        questions.append(_ask(random, WHERE_SAYS, EITHER[picked], text, text=text.text))
    return side_by_side([sheet.canvas.page(()) for sheet in sheets], questions)


def _altered(random: Random, text: str) -> str:
    """The same text but for one character, so that "the same?" has to be read."""
    at = random.choice([place for place, char in enumerate(text) if char != " "])
    pool = "0123456789" if text[at].isdigit() else "abcdefghijklmnopqrstuvwxyz" if text[at].islower() else "ABCDEFGHKLMNPRST"  # fmt: skip # noqa: E501
    other = random.choice([char for char in pool if char.casefold() != text[at].casefold()])
    return text[:at] + other + text[at + 1 :]


# Two charts ---------------------------------------------------------------------------------------

WHERE_HIGHER = (
    "In which picture is {label} higher?", "Which has the higher {label}?", "Which chart has the higher {label}?",
    "Which picture shows the higher {label}?", "Where is {label} higher?", "In which chart is {label} larger?",
    "Which of the two has more {label}?", "Which one has the larger value of {label}?", "{label}: which is higher?",
)  # fmt: skip
WHERE_LOWER = (
    "In which picture is {label} lower?", "Which has the lower {label}?", "Which chart has the lower {label}?",
    "Which picture shows the lower {label}?", "Where is {label} lower?", "In which chart is {label} smaller?",
    "Which one has the smaller value of {label}?", "{label}: which is lower?",
)  # fmt: skip
EACH_VALUE = (
    "What is {label} in the {n} {picture}?", "{label} in the {n} {picture}?",
    "What is the value of {label} in the {n} one?",
    "Value of {label} in the {n} {picture}?", "How much is {label} in the {n} {picture}?",
)  # fmt: skip
CHANGE = (
    "By how much does {label} differ?", "What is the difference of {label}?", "How much does {label} change?",
    "What is the difference in {label}?", "By how much do the two differ in {label}?",
)  # fmt: skip


def _bars(brush: Brush) -> Page:
    random = brush.random
    labels = words.label_set(random, random.randint(2, 4))
    labels = list(dict.fromkeys(label[:14].strip() for label in labels))
    most = random.choice((9, 20, 100, 100, 1000))
    tables = [[random.randint(1, most) for _ in labels] for _ in range(2)]
    half, with_bars = _half(brush), random.random() < 0.7
    sheets = []
    for table in tables:
        lines = [
            Line(label, str(value), value / max(table) if with_bars else None)
            for label, value in zip(labels, table, strict=True)
        ]
        sheets.append(draw_sheet(half, lines, half.max_height))
    questions = []
    same = [index for index, label in enumerate(labels) if all(sheet.left[index].text == label for sheet in sheets)]
    for index in random.sample(same, min(2, len(same))):
        values = [table[index] for table in tables]
        written = _shifted(sheets, [sheet.right[index] or sheet.left[index] for sheet in sheets])
        label, picked = labels[index], random.randrange(2)
        questions.append(
            _ask(random, EACH_VALUE, written[picked], label=label, n=ORDINALS[picked], picture=random.choice(PICTURES))
        )
        if values[0] != values[1]:
            higher = random.random() < 0.6
            wanted = int((values[1] > values[0]) == higher)
            templates = WHERE_HIGHER if higher else WHERE_LOWER
            questions.append(_ask(random, templates, EITHER[wanted], written[wanted], label=label))
            questions.append(_ask(random, CHANGE, str(abs(values[0] - values[1])), written[wanted], label=label))
    questions = questions or [_say_what(random, sheets, random.randrange(2))]
    return side_by_side([sheet.canvas.page(()) for sheet in sheets], questions)


# Two scenes ---------------------------------------------------------------------------------------

WHERE_IS = (
    "Which picture shows {a}?", "Which of the two shows {a}?", "Which one shows {a}?", "In which picture is there {a}?",
    "Where do you see {a}?", "Which image has {a}?", "Which one has {a}?", "Which image shows {a}?",
    "Where is the {name}?",
    "In which picture is the {name}?", "Which picture has the {name}?", "Which of them shows {a}?",
)  # fmt: skip
MORE_THINGS = (
    "Which picture shows more things?", "Which one has more things?", "Which picture has more objects?",
    "In which picture are there more things?", "Which of the two has more objects?", "Where are more things?",
)  # fmt: skip
MORE_OF = (
    "Which picture has more {things}?", "Where are more {things}?", "Which one shows more {things}?",
    "In which picture are more {things}?", "Which of the two has more {things}?", "Which image has more {things}?",
)  # fmt: skip
EACH_COUNT = (
    "How many things are in the {n} {picture}?", "How many objects are in the {n} {picture}?",
    "How many things does the {n} {picture} show?", "Count the things in the {n} {picture}.",
)  # fmt: skip
EACH_WHAT = (
    "What is in the {n} {picture}?", "What does the {n} {picture} show?", "What is shown in the {n} {picture}?",
    "What do you see in the {n} {picture}?", "What is the {n} one?",
)  # fmt: skip
BOTH_SAME = (
    "Do both pictures show the same thing?", "Is it the same thing in both?", "Do both show the same?",
    "Are both the same thing?", "Is the same object shown twice?",
)  # fmt: skip


def _scenes(brush: Brush) -> Page:
    random = brush.random
    alone = random.random() < 0.4
    drawn = [paint_scene(_half(brush), 1 if alone else random.randint(2, 5)) for _ in range(2)]
    scenes = [scene for _, scene in drawn]
    by = len(drawn[0][0].glyphs)
    marks = [[shifted(thing.mark, number * by) for thing in scene.things] for number, scene in enumerate(scenes)]
    names = [{thing.name for thing in scene.things} for scene in scenes]
    picked = random.randrange(2)
    picture = random.choice(PICTURES)
    questions = []
    for name in sorted(names[picked] - names[1 - picked])[:2]:
        clue = marks[picked][[thing.name for thing in scenes[picked].things].index(name)]
        questions.append(_ask(random, WHERE_IS, EITHER[picked], clue, a=a(name), name=name))
    if alone:
        same = names[0] == names[1]
        questions.append(_ask(random, BOTH_SAME, "yes" if same else "no", marks[0][0]))
        name = scenes[picked].things[0].name
        questions.append(_ask(random, EACH_WHAT, name, marks[picked][0], n=ORDINALS[picked], picture=picture))
        return side_by_side([canvas.page(()) for canvas, _ in drawn], questions)
    counts = [len(scene.things) for scene in scenes]
    questions.append(
        _ask(random, EACH_COUNT, str(counts[picked]), marks[picked][0], n=ORDINALS[picked], picture=picture)
    )
    if counts[0] != counts[1]:
        questions.append(_ask(random, MORE_THINGS, EITHER[counts[1] > counts[0]]))
    for name in sorted(names[0] & names[1])[:1]:
        numbers = [sum(thing.name == name for thing in scene.things) for scene in scenes]
        if numbers[0] != numbers[1]:
            things = plural_of(name, scenes[0].things[0].is_icon)
            questions.append(_ask(random, MORE_OF, EITHER[numbers[1] > numbers[0]], things=things))
    return side_by_side([canvas.page(()) for canvas, _ in drawn], questions)


# Turned -------------------------------------------------------------------------------------------

TURNS = {0: "upright", 90: "turned 90 degrees clockwise", 180: "upside down", 270: "turned 90 degrees counterclockwise"}
CLOCKWISE = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
HOW_TURNED = (
    "Is this upright, or turned how?", "Is this upright?", "How is this turned?",
    "Is the page upright, or how is it turned?",
    "Which way is this turned?", "How is the picture turned?", "What is the orientation?", "Is the picture upright?",
    "Is this the right way up?", "In which orientation is this?", "Is it turned?", "How is the page rotated?",
    "Is the image rotated?", "Is the image rotated, and how?", "What is the rotation of this page?",
    "Upright or turned?",
    "How is this image rotated?", "Is the page turned, and how?", "Is the text upright?", "What is its orientation?",
    "Is this upright or turned?", "Which orientation does the page have?", "Has this been turned?",
    "Is it upside down?",
    "Is this picture upright, or turned how?", "Tell me how this is turned.", "Orientation?", "Is this scan upright?",
)  # fmt: skip
READ = ("Transcribe this.", "Read this.", "What does it say?", "What is written here?", "Read the text.", "Transcribe the text.")  # fmt: skip # noqa: E501


def draw_turned(brush: Brush) -> Page:
    """A sheet that was scanned upright or on one of its other three sides."""
    random = brush.random
    side = min(brush.max_width, brush.max_height)
    lines = random.choice((_prose, _paper, _table))(random)[: int((side - 8) / (TIGHT * SMALLEST_TYPE))]
    sheet = draw_sheet(replace(brush, max_width=side, max_height=side), lines, side)
    turn = random.choice(tuple(TURNS))
    clue = sheet.left[0]
    questions = [Question(say(random, random.choice(HOW_TURNED)), unprinted(TURNS[turn]), "orientation", clue)]
    if len(lines) <= 2 and random.random() < 0.3:
        questions.append(Question(say(random, random.choice(READ)), sheet.text, "transcribe"))
    return turned(sheet.canvas.page(questions), turn)


def turned(page: Page, degrees: int) -> Page:
    """The page with its one picture turned clockwise by 0, 90, 180 or 270 degrees."""
    if degrees == 0:
        return page
    width, height = page.pictures[0].size
    place: Callable[[Glyph], tuple[float, float]] = {
        90: lambda glyph: (height - glyph.y, glyph.x),
        180: lambda glyph: (width - glyph.x, height - glyph.y),
        270: lambda glyph: (glyph.y, width - glyph.x),
    }[degrees]
    glyphs = []
    for glyph in page.glyphs:
        x, y = place(glyph)
        glyphs.append(replace(glyph, x=x, y=y))
    return Page((page.pictures[0].transpose(CLOCKWISE[degrees]),), tuple(glyphs), page.questions)


def _prose(random: Random) -> list[Line]:
    longest = random.randint(8, 30)
    return [Line(words.line(random, longest)) for _ in range(random.randint(1, 7))]


def _paper(random: Random) -> list[Line]:
    style = words.money_style(random)
    items = [Line(words.product(random)[:16].strip(), words.money(random, None, style)) for _ in range(random.randint(1, 5))]  # fmt: skip # noqa: E501
    total = Line(random.choice(TOTALS), words.money(random, None, style))
    return [Line(words.company(random)[:22].strip()), Line(words.date(random)), *items, total]


def _table(random: Random) -> list[Line]:
    labels = words.label_set(random, random.randint(3, 7))
    return [Line(words.title(random)[:24].strip()), *(Line(label[:16].strip(), words.number_text(random)) for label in labels)]  # fmt: skip # noqa: E501
