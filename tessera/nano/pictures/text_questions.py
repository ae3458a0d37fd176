"""What is asked about a page of text: all of it, one line, a word's neighbour, a fact, what is not there.

A fact is asked for only where exactly one thing on the page could be meant, and said to be absent
only where nothing looks like it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from tessera.nano.pictures import words
from tessera.nano.pictures.page import Question, Written, filled, joined, unprinted
from tessera.nano.pictures.text_sheet import Reading

ABSENT = "not shown"

TRANSCRIBE = (
    "Transcribe this.", "Transcribe the text.", "Read the text.", "What does it say?", "What is written here?",
    "Read this.", "What does the picture say?", "Transcribe this picture.", "Write down the text.",
    "What text is in the image?", "What does this say?", "Transcribe the image.", "Read everything.", "OCR",
    "Extract the text.", "Please transcribe.", "Give me the text of this picture.", "What can you read?",
    "Copy the text.", "Type out what is written.", "Transcribe all text.", "Return the text in this image.",
    "Read it to me.", "Convert this picture to text.", "Output the text line by line.", "Text?",
    "What is printed here?", "Transcribe the whole page.", "Write out all the text you see.", "Which text is shown?",
)  # fmt: skip
LINE = (
    "What does line {number} say?", "Transcribe line {number}.", "Read line {number}.", "Line {number}?",
    "What is written in line {number}?", "Give line {number}.", "Read the {ordinal} line.",
    "What is the {ordinal} line?", "What does the {ordinal} line say?", "Transcribe the {ordinal} line.",
    "Copy line {number}.", "Show line {number}.", "Write down the {ordinal} line.",
    "What can be read in line {number}?", "Text of line {number}?", "Only line {number}, please.",
    "Quote the {ordinal} line.", "What's on the {ordinal} line?", "Which text is in line {number}?",
    "Type the {ordinal} line.",
)  # fmt: skip
FIRST = (
    "Read the first line.", "What does the first line say?", "First line?", "Transcribe the first line only.",
    "What is at the top?", "What is written at the top?", "Give me the first line.", "What is the topmost line?",
    "Text of the first line?", "How does it begin? Give the first line.", "Quote the first line.", "Read line 1.",
    "What does line 1 say?", "Read the top line.", "Which line comes first?", "Just the first line, please.",
    "What's on the first line?", "Copy the first line.", "Write down the first line.", "Show the first line.",
)  # fmt: skip
LAST = (
    "Read the last line.", "What does the last line say?", "Last line?", "Transcribe the last line only.",
    "What is at the bottom?", "What is written at the bottom?", "Give me the last line.", "What is the final line?",
    "Text of the last line?", "How does it end? Give the last line.", "Quote the last line.", "Read the bottom line.",
    "Which line comes last?", "Just the last line, please.", "What's on the last line?", "Copy the last line.",
    "Write down the last line.", "Show the last line.", "What does the bottom line say?", "Transcribe the final line.",
)  # fmt: skip
HEADING = (
    "What is the heading?", "What is the title?", "Read the heading.", "Title?", "Heading?", "What is it titled?",
    "What does the heading say?", "Give the title.", "What is the headline?", "Transcribe the heading.",
    "Which title does this have?", "What is this called?", "Read the title.", "Name the heading.", "What's the title?",
    "What heading is shown?", "Transcribe the title.", "Copy the headline.", "Under which heading does this stand?",
    "What is the title of this text?",
)  # fmt: skip
AFTER = (
    "What comes after {word}?", 'Which word follows "{word}"?', "What is the word after {word}?",
    "What stands after {word}?", 'What follows "{word}"?', "Next word after {word}?", "Word after {word}?",
    'Which word comes right after "{word}"?', "What is written after {word}?", "What comes next after {word}?",
    'Give the word that follows "{word}".', "Name the word after {word}.", "After {word} comes which word?",
    'Read the word behind "{word}".', "What is next to {word} on its right?", "{word} is followed by what?",
    "What does {word} precede?", 'Find "{word}" and read the next word.', "Which word stands behind {word}?",
    "Tell me the word after {word}.",
)  # fmt: skip
BEFORE = (
    "What comes before {word}?", 'Which word precedes "{word}"?', "What is the word before {word}?",
    "What stands before {word}?", "Word before {word}?", 'Which word comes right before "{word}"?',
    "What is written before {word}?", "Name the word before {word}.", 'Find "{word}" and read the word before it.',
    "Tell me the word before {word}.", "Before {word} comes which word?", "What is next to {word} on its left?",
    'Give the word in front of "{word}".', "Which word stands in front of {word}?", "Previous word to {word}?",
    "What word leads to {word}?", 'Read the word ahead of "{word}".', "{word} is preceded by what?",
    "Which word is before {word}?", "What does {word} follow?",
)  # fmt: skip
CONTAINS = (
    "Is the word {word} in the picture?", 'Does it say "{word}"?', "Is {word} written here?", 'Is there "{word}"?',
    "Does the text contain {word}?", "Can you find {word}?", "Does {word} appear in the text?", 'Do you see "{word}"?',
    "Does the word {word} occur?", 'Is "{word}" in the text?', "Is {word} mentioned?",
    "Does the picture mention {word}?", 'Does this include the word "{word}"?', "Is {word} shown?",
    "Is the word {word} printed anywhere?", 'Can "{word}" be read here?', "Yes or no: is {word} in the image?",
    "{word}: is it there?", 'Does "{word}" stand anywhere on the page?', "Check whether {word} is in the text.",
)  # fmt: skip
COUNT = (
    "How many lines are there?", "How many lines of text?", "Count the lines.", "Number of lines?",
    "How many lines does the text have?", "How many rows of text are there?", "What is the number of lines?",
    "How many lines can you see?", "Count the lines of text.", "How many lines are printed?",
    "Tell me how many lines there are.", "The text has how many lines?", "How many text lines are shown?",
    "In how many lines is this set?", "How many lines does this have?", "Give the number of lines.",
    "Lines in total?", "How many lines long is this?", "What is the line count?", "How many lines are in the picture?",
)  # fmt: skip
PARAGRAPH = (
    "Read paragraph {number}.", "What does the {ordinal} paragraph say?", "Transcribe the {ordinal} paragraph.",
    "Transcribe paragraph {number}.", "Paragraph {number}?", "Copy the {ordinal} paragraph.",
    "Read the {ordinal} paragraph.", "What is written in paragraph {number}?", "Give me paragraph {number}.",
    "Text of the {ordinal} paragraph?", "Only the {ordinal} paragraph, please.", "Quote paragraph {number}.",
    "Write down the {ordinal} paragraph.", "What can be read in paragraph {number}?",
    "Type out the {ordinal} paragraph.", "Show paragraph {number}.", "Output the {ordinal} paragraph.",
    "What's in the {ordinal} paragraph?", "Extract paragraph {number}.", "Which text is in the {ordinal} paragraph?",
)  # fmt: skip
ITEM = (
    "What is item {number}?", "Read item {number}.", "What is the {ordinal} item?", "What does item {number} say?",
    "Item {number}?", "Which item is {ordinal}?", "Name the {ordinal} item.", "What is the {ordinal} point?",
    "Read the {ordinal} entry.", "What does point {number} say?", "Give the {ordinal} item of the list.",
    "What is number {number} on the list?", "Transcribe item {number}.", "Copy the {ordinal} point.",
    "What stands {ordinal} in the list?", "Tell me item {number}.", "List item {number}?",
    "Which entry is number {number}?", "What is entry {number}?", "Quote the {ordinal} point.",
)  # fmt: skip
COLUMN = (
    "Read the {side} column.", "Transcribe the {side} column.", "What does the {side} column say?",
    "Text of the {side} column?", "What is written in the {side} column?", "Give me the {side} column.",
    "Copy the {side} column.", "Only the {side} column, please.", "Write down the {side} column.",
    "What can be read in the {side} column?", "Show the {side} column.", "Type out the {side} column.",
    "Extract the {side} column.", "Output the {side} column line by line.", "What's in the {side} column?",
    "Quote the {side} column.", "Which text is in the {side} column?", "{side} column?",
    "Read what stands in the {side} column.", "Return the {side} column's text.",
)  # fmt: skip
BUTTONS = (
    "Which buttons are there?", "What do the buttons say?", "Name the buttons.", "What buttons can be pressed?",
    "Read the buttons.", "Buttons?", "What can I click?", "Which choices are there?", "List the buttons.",
    "What are the labels of the buttons?", "Which buttons does the dialog have?", "What buttons do you see?",
    "What options does the window give?", "What is on the buttons?", "Give the text of the buttons.",
    "Transcribe the buttons.", "Which buttons can I choose from?", "What are the options?", "Show me the buttons.",
    "What do the buttons at the bottom say?",
)  # fmt: skip
FACT = (
    "What is the {name}?", "What's the {name}?", "Which {name} is given?", "{name}?", "Give the {name}.",
    "Find the {name}.", "What {name} is shown?", "Read the {name}.", "Tell me the {name}.", "Extract the {name}.",
    "Is there a {name}? Which?", "The {name}, please.", "Which {name} do you see?", "Look for the {name}.",
    "Name the {name}.", "Can you read the {name}?", "I need the {name}.", "Copy the {name}.", "Return the {name}.",
    "What is written as the {name}?",
)  # fmt: skip
FACT_NAMES = {
    "phone": ("phone number", "telephone number", "phone", "number to call", "contact number"),
    "email": ("email", "email address", "e-mail", "e-mail address", "mail address"),
    "date": ("date", "date", "day", "date shown", "date given"),
    "time": ("time", "time", "time of day", "hour", "time shown"),
    "web": ("website", "web address", "URL", "web page", "link"),
    "price": ("price", "amount", "cost", "sum", "amount of money"),
    "code": ("code", "reference", "code", "reference number", "reference code"),
}
MONTH = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
LOOKS_LIKE = {  # what might be taken for the fact: wide, since an unasked question costs nothing
    "phone": re.compile(r"\d[\d ()./-]{4,}\d"),
    "email": re.compile(r"@"),
    "date": re.compile(rf"\d[./-]\d|(?i:{MONTH})[a-z]*\.? ?\d|\d ?(?i:{MONTH})|\b(19|20)\d\d\b|(?i:day\b)"),
    "time": re.compile(r"\d[:.h]\d\d|\d ?(?i:[ap]m)\b"),
    "web": re.compile(r"www\.|://|\w\.[a-z]{2,4}\b"),
    "price": re.compile(r"[$£€]|\d[.,]\d\d|\b(USD|EUR|GBP|CHF|kr|zl|Ft)\b|(?i:free|price|cost|total|fee|rent|sum)"),
    "code": re.compile(r"[A-Z]+[-/ .#_]?\d|\d[-/ .]?[A-Z]|#|\d{3}|[A-Z]\w*\d|(?i:code|no\.|number|ref)"),
}
PAIR_KEYS = (
    "Name", "Phone", "E-mail", "Address", "Date", "Time", "Room", "Order no.", "Customer", "Status", "Total", "Color",
    "Weight", "Size", "Height", "Age", "Type", "Model", "Serial no.", "Version", "Department", "Manager", "Country",
    "City", "Language", "Payment", "Delivery", "Quantity", "Price", "Account", "Reference", "Seat", "Gate", "Flight",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
SHORT_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")


def asked(random: Random, templates: Sequence[str], **pieces: Written | str) -> Written:
    """One of the wordings, as people type: with or without its capital, its mark, a "please"."""
    template = random.choice(templates)
    kind = random.random()
    if kind < 0.25:
        template = template.rstrip(".?")
    if kind > 0.9 and template.endswith("?"):
        template = (
            random.choice(("Please tell me: ", "Tell me, ", "So, ", "Hey, ")) + template[0].lower() + template[1:]
        )
    if 0.15 < kind < 0.35 and not template.startswith("OCR"):
        template = template[0].lower() + template[1:]
    return filled(template, **pieces)


def _question(
    question: Written, answer: Written | str, clue: Written | None = None, skill: str = "transcribe"
) -> Question:
    if isinstance(answer, str):
        return Question(question, unprinted(answer), skill, clue)
    return Question(question, answer, skill, clue or answer)


def _absent(question: Written) -> Question:
    return _question(question, ABSENT, skill="absent")


def _ordinal(random: Random, number: int) -> dict[str, Written | str]:
    named = number <= len(ORDINALS)
    ordinal = random.choice((ORDINALS, SHORT_ORDINALS))[number - 1] if named else f"{number}th"
    return {"number": str(number), "ordinal": ordinal}


def _numbered(
    random: Random, texts: Sequence[Written], templates: Sequence[str], missing: float = 0.12
) -> Question | None:
    """One of several by its number; sometimes by a number beyond the last."""
    if len(texts) < 2 or len(texts) > 16:
        return None
    if random.random() < missing:
        beyond = len(texts) + random.randint(1, 4)
        return _absent(asked(random, templates, **_ordinal(random, beyond)))
    number = random.randint(1, len(texts))
    return _question(asked(random, templates, **_ordinal(random, number)), texts[number - 1])


def transcribe_all(random: Random, reading: Reading) -> Question:
    return _question(asked(random, TRANSCRIBE), joined(reading.rows, "\n"))


def line_question(random: Random, reading: Reading) -> Question | None:
    if reading.printed("left"):
        return None  # lines of columns beside each other have no agreed number
    return _numbered(random, reading.rows, LINE)


def end_question(random: Random, reading: Reading) -> Question | None:
    if len(reading.rows) < 2 or reading.printed("left"):
        return None
    first = random.random() < 0.5
    return _question(asked(random, FIRST if first else LAST), reading.rows[0 if first else -1])


def heading_question(random: Random, reading: Reading) -> Question | None:
    headings = reading.printed("heading")
    if len(headings) == 1:
        return _question(asked(random, HEADING), headings[0])
    if not headings and reading.printed("body") and len(reading.rows) > 3 and random.random() < 0.4:
        return _absent(asked(random, HEADING))
    return None


def count_question(random: Random, reading: Reading) -> Question | None:
    if len(reading.rows) > 12 or reading.printed("left") or random.random() < 0.5:
        return None
    return _question(asked(random, COUNT), str(len(reading.rows)), joined(reading.rows[-1:]))


def paragraph_question(random: Random, reading: Reading) -> Question | None:
    paragraphs = [block for block in reading.blocks if "\n" in block.text]
    if not reading.printed("paragraph") or len(paragraphs) != len(reading.blocks) - len(reading.printed("heading")):
        return None
    return _numbered(random, paragraphs, PARAGRAPH)


def item_question(random: Random, reading: Reading) -> Question | None:
    return _numbered(random, reading.printed("item"), ITEM)


def column_question(random: Random, reading: Reading) -> Question | None:
    side = random.choice(("left", "right"))
    lines = reading.printed(side)
    return _question(asked(random, COLUMN, side=side), joined(lines, "\n")) if lines else None


def button_question(random: Random, reading: Reading) -> Question | None:
    buttons = reading.printed("button")
    return _question(asked(random, BUTTONS), joined(buttons, ", ")) if buttons else None


def _words(reading: Reading) -> list[Written]:
    """The page's words in reading order, without the marks around them."""
    found = []
    for row in reading.rows:
        for match in re.finditer(r"\S+", row.text):
            start, end = match.span()
            inner = match[0].strip(",.;:!?()[]\"'<>*")
            if inner:
                start += match[0].index(inner)
                end = start + len(inner)
            found.append(row[start:end])
    return found


def neighbour_question(random: Random, reading: Reading) -> Question | None:
    """What stands before or after a word of one row that occurs once."""
    if reading.printed("left"):
        return None
    rows = [_words(Reading(rows=[row])) for row in reading.rows]
    everything = [word.text.lower() for row in rows for word in row]
    pairs = [(one, other) for row in rows for one, other in pairwise(row)]
    after = random.random() < 0.7
    places = [pair if after else pair[::-1] for pair in pairs]
    places = [
        (word, answer) for word, answer in places if len(word.text) > 1 and everything.count(word.text.lower()) == 1
    ]
    if not places:
        return None
    word, answer = random.choice(places)
    return _question(asked(random, AFTER if after else BEFORE, word=word), answer, word)


def contains_question(random: Random, reading: Reading) -> Question | None:
    printed = [word for word in _words(reading) if len(word.text) > 2 and word.text.isalnum()]
    if not printed:
        return None
    if random.random() < 0.5:
        word = random.choice(printed)
        return _question(asked(random, CONTAINS, word=word), "yes", word)
    return _question(asked(random, CONTAINS, word=_missing_word(random, reading, printed)), "no", skill="absent")


def _missing_word(random: Random, reading: Reading, printed: Sequence[Written]) -> str:
    """A word that is not there: another one, or a printed one with a letter exchanged."""
    text = reading.text.lower()
    while True:
        word = words.cased(random, words.word(random) if random.random() < 0.7 else words.made_up(random, 3, 7))
        if random.random() < 0.3:
            old = random.choice(printed).text
            place = random.randrange(len(old))
            word = old[:place] + random.choice(words.LOWER) + old[place + 1 :]
        if len(word) > 2 and word.lower() not in text:
            return word


def fact_question(random: Random, reading: Reading) -> Question | None:
    """A telephone number, an address, a date; `not shown` where nothing looks like one."""
    rest = reading.text
    for values in reading.facts.values():
        for value in values:
            rest = rest.replace(value.text, " ")
    clear = [kind for kind in LOOKS_LIKE if not LOOKS_LIKE[kind].search(rest)]
    there = [kind for kind in clear if len(reading.facts.get(kind, ())) == 1]
    if there and random.random() < 0.75:
        kind = random.choice(there)
        return _question(asked(random, FACT, name=random.choice(FACT_NAMES[kind])), reading.facts[kind][0])
    missing = [
        kind for kind in clear if not any(LOOKS_LIKE[kind].search(text) for text in (rest, _facts_text(reading)))
    ]
    if missing and random.random() < (0.6 if reading.facts else 0.25):
        return _absent(asked(random, FACT, name=random.choice(FACT_NAMES[random.choice(missing)])))
    return None


def _facts_text(reading: Reading) -> str:
    return "\n".join(value.text for values in reading.facts.values() for value in values)


def pair_question(random: Random, reading: Reading) -> Question | None:
    """The value that stands with a key; `not shown` for a key that is not printed."""
    keys = [key[: len(key.text.rstrip(":"))] for key in reading.printed("key")]
    values = reading.printed("value")
    if not keys or len(keys) != len(values):
        return None
    if random.random() < 0.2:
        printed = reading.text.lower()
        missing = [key for key in PAIR_KEYS if key.lower()[:4] not in printed]
        return _absent(asked(random, FACT, name=random.choice(missing))) if missing else None
    number = random.randrange(len(keys))
    key = keys[number]
    name = Written(key.text.lower(), key.glyphs) if random.random() < 0.4 else key
    return _question(asked(random, FACT, name=name), values[number], key)


Kind = Callable[[Random, Reading], Question | None]
KINDS: tuple[tuple[Kind, float], ...] = (  # what only few pages can be asked comes first where it can
    (line_question, 2.0),
    (end_question, 1.5),
    (heading_question, 2.0),
    (count_question, 0.7),
    (paragraph_question, 6.0),
    (item_question, 6.0),
    (column_question, 6.0),
    (button_question, 6.0),
    (neighbour_question, 2.0),
    (contains_question, 2.0),
    (fact_question, 4.0),
    (pair_question, 6.0),
)


def questions(random: Random, reading: Reading) -> list[Question]:
    """All of the text, and some of what else can be asked, each question once."""
    found: dict[str, Question] = {}
    wanted = random.randint(2, 7)
    for kind in (*_shuffled(random), *_shuffled(random)):
        question = kind(random, reading)
        if question is not None and len(found) < wanted:
            found[question.question.text] = question
    return [transcribe_all(random, reading), *found.values()]


def _shuffled(random: Random) -> list[Kind]:
    """All kinds, those of larger weight mostly earlier."""
    places = [(random.random() ** (1 / weight), number) for number, (_, weight) in enumerate(KINDS)]
    return [KINDS[number][0] for _, number in sorted(places, reverse=True)]
