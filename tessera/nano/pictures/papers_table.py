"""Tables: rows and columns of words, numbers, dates and codes, and what is asked about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures import words
from tessera.nano.pictures.page import Question, Written, chosen, joined, unprinted
from tessera.nano.pictures.papers_asking import (
    LISTS_AS_JSON,
    LONGEST_JSON,
    Places,
    absent,
    asked,
    json_list,
    json_object,
    key_braces,
    key_list,
)
from tessera.nano.pictures.papers_blocks import Block, Gap, Grid, Line, Piece, Stack, Text
from tessera.nano.pictures.papers_sale import Room

HEADS = ("Item", "Name", "Label", "Group", "Type", "Team", "Country", "City", "Product", "Region", "Year", "Month",
         "Category", "Model", "Person", "Code", "Step", "Task", "Department", "Station", "Class", "Player")  # fmt: skip
NUMBER_HEADS = (
    "Price", "Count", "Sales", "Score", "Stock", "Units", "Cost", "Age", "Size", "Rank", "Qty", "Weight", "Points",
    "Visitors", "Budget", "Hours", "Speed", "Income", "Growth", "Share", "Profit", "Tax", "Orders", "Goals", "Wins",
    "Height", "Length", "Area", "Population", "Temperature", "Min", "Max", "Mean", "Rate", "Distance", "Errors", "2019",
    "2020", "2021", "2022", "2023", "2024", "Q1", "Q2", "Q3", "Q4", "Jan", "Feb", "Mar", "A", "B", "Men", "Women",
)  # fmt: skip
UNITS = ("kg", "%", "$", "EUR", "km", "h", "in %", "USD", "cm", "m", "g", "mm", "s", "t")
TEXT_HEADS: tuple[tuple[Callable[[Random], str], tuple[str, ...]], ...] = (
    (words.date, ("Date", "Start", "End", "Due", "Updated", "Born", "Delivered")),
    (words.code, ("Code", "ID", "Ref", "SKU", "No.", "Serial")),
    (words.city, ("City", "Place", "Venue", "Destination", "From", "To")),
    (words.time, ("Time", "Opens", "Closes", "Arrival", "Departure")),
    (lambda random: random.choice(words.names().first), ("Owner", "Contact", "Manager", "Winner", "Author")),
    (lambda random: random.choice(("yes", "no")), ("Active", "Paid", "Passed", "Available")),
    (lambda random: random.choice(("open", "done", "new", "late", "ok", "failed", "closed", "draft")), ("Status",
    "State")),
    (lambda random: words.word(random), ("Note", "Remark", "Color", "Material", "Topic", "Group")),
)  # fmt: skip
TOTALS = ("Total", "Sum", "TOTAL", "All", "Total:")


@dataclass(frozen=True)
class Column:
    head: Piece
    cells: tuple[Piece, ...]
    values: tuple[float, ...] | None  # of numbers


@dataclass(frozen=True)
class Table:
    title: Piece | None
    rows: Column  # the rows' names, with the corner as their head
    columns: tuple[Column, ...]
    totals: tuple[Piece, ...] | None  # the last row, its name first


def invent(random: Random, room: Room) -> Table:
    num_columns = min(random.choice((1, 1, 2, 2, 3, 3, 4, 5)), max(1, room.columns // 9))
    widest = max(4, room.columns // (num_columns + 1))
    spare = max(2, min(14, room.lines - 2))
    num_rows = random.randint(max(2, spare // 3), spare)
    names = [label[: widest + 4].strip() or "-" for label in words.label_set(random, num_rows)]
    if len(set(map(str.lower, names))) < num_rows:
        names = [f"{name[:widest]} {number}" for number, name in enumerate(names, 1)]
    strong = random.random() < 0.6
    heads: set[str] = set()
    columns = [_column(random, num_rows, widest, strong, heads) for _ in range(num_columns)]
    corner = Piece(random.choice([head for head in HEADS if head not in heads]), strong=strong)
    bold = random.random() < 0.2
    rows = Column(corner, tuple(Piece(name, strong=bold) for name in names), None)
    title = None
    if random.random() < 0.35:
        text = words.title(random)[: room.columns].strip()
        title = Piece(text, random.uniform(1.0, 1.4), random.random() < 0.5)
    totals = _totals(random, columns) if random.random() < 0.2 else None
    return Table(title, rows, tuple(columns), totals)


def _column(random: Random, count: int, widest: int, strong: bool, heads: set[str]) -> Column:
    numeric = random.random() < 0.72
    names: tuple[str, ...]
    if numeric:
        source, names = None, NUMBER_HEADS
    else:
        source, names = random.choice(TEXT_HEADS)
    name = random.choice([head for head in names if head not in heads] or [words.word(random).capitalize()])
    if random.random() < 0.12:
        name = words.word(random)[: widest + 3].capitalize()
    while name in heads:
        name += random.choice("abc")
    heads.add(name)
    if source is not None:
        return Column(
            Piece(name, strong=strong), tuple(Piece(source(random)[: widest + 5]) for _ in range(count)), None
        )
    if random.random() < 0.12:
        name += f" ({random.choice(UNITS)})"
    values, show = _numbers(random, count)
    return Column(Piece(name, strong=strong), tuple(Piece(show(value)) for value in values), tuple(values))


def _numbers(random: Random, count: int) -> tuple[list[float], Callable[[float], str]]:
    """Values of one column, and the way they are all printed."""
    kind, high = random.random(), random.choice((9, 20, 99, 500, 9999, 250000))
    if kind < 0.4:
        return [random.randint(0, high) for _ in range(count)], lambda value: f"{value:.0f}"
    if kind < 0.5:
        return [random.randint(0, high * 10) for _ in range(count)], lambda value: f"{value:,.0f}"
    if kind < 0.7:
        digits = random.choice((1, 1, 2, 3))
        low = -high if random.random() < 0.15 else 0
        return [round(random.uniform(low, high), digits) for _ in range(count)], lambda value: f"{value:.{digits}f}"
    if kind < 0.82:
        digits = random.choice((0, 0, 1))
        return [round(random.uniform(0, 100), digits) for _ in range(count)], lambda value: f"{value:.{digits}f}%"
    return [round(10 ** random.uniform(0, 3.5), 2) for _ in range(count)], words.money_style(random).show


def _totals(random: Random, columns: list[Column]) -> tuple[Piece, ...] | None:
    """The sums of the columns of plain numbers; the others stay empty."""
    if not all(column.values and all(_is_plain(cell.text) for cell in column.cells) for column in columns):
        return None
    sums = []
    for column in columns:
        decimals = max(len(cell.text.partition(".")[2]) for cell in column.cells)
        sums.append(Piece(f"{sum(column.values or ()):.{decimals}f}", strong=True))
    return (Piece(random.choice(TOTALS), strong=True), *sums)


def _is_plain(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdigit()


# Layouts -------------------------------------------------------------------------------------

RULES = ("", "h", "hvo", "hvo", "t", "bt", "bt", "to", "o", "v", "vto", "bth", "hv", "vt", "tb")


def compose(random: Random, table: Table, room: Room, unseen: bool) -> Block:
    """A table in one of the usual dresses; held out are dotted rows, and words and numbers both to the right."""
    heads: list[Line] = [(table.rows.head,), *((column.head,) for column in table.columns)]
    if random.random() < 0.12:
        heads[0] = ()
    rows = [heads]
    for number, name in enumerate(table.rows.cells):
        rows.append([(name,), *((column.cells[number],) for column in table.columns)])
    if table.totals is not None:
        rows.append([(piece,) for piece in table.totals])
    numbers = random.choice((1.0, 1.0, 0.5, 0.0))
    texts = random.choice((0.0, 0.0, 0.5))
    aligns = [0.0, *(numbers if column.values else texts for column in table.columns)]
    rules, zebra, band = random.choice(RULES), random.random() < 0.25, random.random() < 0.35
    if unseen and random.random() < 0.5:
        rules, zebra = "d", False
    elif unseen:
        aligns, rules = [1.0] * len(aligns), random.choice(("b", "v"))
    totals = 0 if table.totals is None else 1
    grid = Grid(rows, aligns, rules, num_totals=totals, band=band, zebra=zebra)
    if table.title is None:
        return grid
    title: list[Block] = [Text([(table.title,)], random.choice((0.0, 0.5, 0.5, 1.0)))]
    return Stack([*title, Gap(0.4), grid] if random.random() < 0.85 else [grid, Gap(0.4), *title])


# Questions -----------------------------------------------------------------------------------

CELL = (
    "What is the {column} of {row}?", "What is {column} for {row}?", "Give the {column} of {row}.",
    "{column} of {row}?", "What {column} does {row} have?", "Which {column} has {row}?", "{row}: {column}?",
    "What stands in row {row}, column {column}?", "Read the {column} of {row}.", "Look up {column} for {row}.",
    "What value is in the {column} column for {row}?", "In the row {row}, what is the {column}?", "{column} {row}",
    "Tell me the {column} for {row}.", "How much is the {column} of {row}?", "What's the {column} for {row}?",
    "Find the {column} of {row}.", "For {row}, what is the {column}?", "What does the table say for {row} in {column}?",
    "What is {row}'s {column}?", "Which value does {row} have under {column}?", "{column} for {row}",
)  # fmt: skip
ONLY_CELL = (
    "What is the value of {row}?", "How much is {row}?", "{row}?", "Value of {row}?", "What stands next to {row}?",
    "Which value has {row}?", "What does it say for {row}?", "Give the value of {row}.", "Read the value of {row}.",
)  # fmt: skip
HIGHEST = (
    "Which {rows} has the highest {column}?", "What has the highest {column}?", "Who or what has the most {column}?",
    "Which row has the largest {column}?", "Where is {column} highest?", "Highest {column}?",
    "Max {column}: which row?",
    "Name the {rows} with the highest {column}.", "Which one has the greatest {column}?", "Which is best by {column}?",
    "Which {rows} leads in {column}?", "For which {rows} is the {column} highest?",
    "Which row shows the maximum of {column}?", "Which {rows} comes first in {column}?",
)  # fmt: skip
LOWEST = (
    "Which {rows} has the lowest {column}?", "What has the lowest {column}?", "Which row has the smallest {column}?",
    "Where is {column} lowest?", "Lowest {column}?", "Name the {rows} with the lowest {column}.",
    "Which one has the least {column}?", "For which {rows} is the {column} lowest?",
    "Which row shows the minimum of {column}?", "Which {rows} is last in {column}?",
)  # fmt: skip
HIGHEST_VALUE = (
    "What is the highest {column}?", "What is the largest value in {column}?", "Highest value of {column}?",
    "What is the maximum of {column}?", "Give the highest {column}.", "Max of the {column} column?",
)  # fmt: skip
LOWEST_VALUE = (
    "What is the lowest {column}?", "What is the smallest value in {column}?", "Lowest value of {column}?",
    "What is the minimum of {column}?", "Give the lowest {column}.", "Min of the {column} column?",
)  # fmt: skip
WHICH_ROW = (
    "Which {rows} has {column} {value}?", "Which row has {value} in {column}?",
    "For which {rows} is the {column} {value}?",
    "Where is the {column} {value}?", "{value} is the {column} of which {rows}?", "Whose {column} is {value}?",
    "Find the row with {column} {value}.", "Which {rows} shows {value} under {column}?",
    "What has a {column} of {value}?",
    "Name the {rows} whose {column} is {value}.",
)  # fmt: skip
NUM_ROWS = (
    "How many rows are there?", "How many rows does the table have, without the head?", "Count the rows of data.",
    "How many rows of data are there?", "Number of rows?", "How many entries does the table have?", "How many {rows}?",
    "How many lines are in the table, not counting the header?", "How many records are listed?", "Count the entries.",
    "How many items are in the table?", "How many rows can you see below the header?",
)  # fmt: skip
NUM_COLUMNS = (
    "How many columns are there?", "How many columns does the table have?", "Number of columns?", "Count the columns.",
    "Tell me how many columns there are.", "How many columns can you see?",
)  # fmt: skip
HEAD_NAMES = (
    "What are the column names?", "What are the headers?", "List the column heads.", "Name the columns.",
    "Which columns does the table have?", "Read the header row.", "What does the header row say?", "Headers?",
    "Give the column titles.", "What columns are there?", "List the headers.", "Column names, please.",
)  # fmt: skip
ROW_NAMES = (
    "List the {column} column.", "What is in the {column} column?", "Read the {column} column.",
    "All values of {column}?",
    "List all values of {column}.", "What are the values of {column}?", "Give the {column} column.",
    "Which values are listed under {column}?", "Read down the {column} column.",
)  # fmt: skip
ROW_AS_JSON = (
    "Give the row {row} as JSON.", "Return the row of {row} as a JSON object.", "{row} as JSON", "Row {row} in JSON?",
    "All values of {row} as JSON.", "What are the values of {row}? Answer as JSON.", "Extract the row {row} as JSON.",
    "Read the row {row} and give it as JSON.", "Convert the row {row} to JSON.", "JSON for {row}",
)  # fmt: skip
COLUMN_AS_JSON = (
    "Give the {column} of each {rows} as JSON.", "Return {column} by {rows} as a JSON object.",
    "{column} by row as JSON",
    "All {column} values as JSON.", "List the {column} for every {rows} as JSON.",
    "Map each {rows} to its {column}, JSON.",
    "Extract the {column} column as JSON.", "JSON object of {column} per {rows}.",
    "Read the {column} column into JSON.",
    "What is the {column} of every {rows}? JSON.",
)  # fmt: skip
MARKDOWN = (
    "Transcribe the table as Markdown.", "Convert this table to Markdown.", "Give the table in Markdown.",
    "As Markdown",
    "Write this as a Markdown table.", "Markdown table, please.", "Return the table as Markdown.", "Table to Markdown",
    "Read the table and write it in Markdown.", "Turn this into a Markdown table.", "Markdown version of this table?",
)  # fmt: skip
AS_LINES = (
    "Transcribe the table.", "Read the table.", "Read out all cells.", "Transcribe this.", "Read all rows.",
    "Write down the whole table.", "What does the table say?", "Read this table line by line.", "Copy the table.",
)  # fmt: skip
ALL_AS_JSON = (
    "Return the table as JSON.", "Convert this table to JSON.", "Table to JSON", "The whole table as JSON, please.",
    "Extract the table as a JSON list of objects.", "Give all rows as JSON objects.", "List all rows as JSON.",
    "Give the table as JSON.", "Read the table into JSON.", "All data as JSON.", "Parse this table to JSON.",
)  # fmt: skip
TITLE = (
    "What is the title?", "What is the table about?", "Title of the table?", "What is the heading of the table?",
    "What does the caption say?", "Read the title.", "What is the table called?", "Which title does it have?",
)  # fmt: skip
TOTAL_OF = (
    "What is the total of {column}?", "Total {column}?", "How much is the {column} in total?", "Sum of {column}?",
    "What is the sum of the {column} column?", "What total is printed for {column}?", "Give the total {column}.",
)  # fmt: skip
DIFFERENCE = (
    "What is the difference in {column} between {one} and {other}?", "How much more {column} has {one} than {other}?",
    "By how much does {one} exceed {other} in {column}?", "Difference of {column}, {one} and {other}?",
)  # fmt: skip
MORE = (
    "Which has the higher {column}, {one} or {other}?", "Is {column} higher for {one} or {other}?",
    "{one} or {other}: which has more {column}?", "Who has more {column}, {one} or {other}?",
    "Which of {one} and {other} has the larger {column}?", "Compare {one} and {other}: which has a higher {column}?",
)  # fmt: skip


def ask(random: Random, table: Table, places: Places, count: int) -> list[Question]:
    asker = _Asker(random, table, places)
    kinds = {
        asker.cell: 26, asker.extreme: 14, asker.extreme_value: 4, asker.which_row: 8, asker.count_rows: 4,
        asker.num_columns: 2, asker.heads: 4, asker.column: 5, asker.row_as_json: 8, asker.column_as_json: 5,
        asker.all_as_json: 9, asker.some_as_json: 7, asker.as_text: 7, asker.title: 2, asker.total: 4, asker.missing: 6,
        asker.more: 5, asker.difference: 3,
    }  # fmt: skip
    return chosen(random, kinds, count)


class _Asker:
    def __init__(self, random: Random, table: Table, places: Places) -> None:
        self.random, self.table, self.places = random, table, places
        corner = table.rows.head
        self.corner = corner if corner in places else None
        words_for_row = ["row", "one", "entry", "line"] if self.corner is None else ["row", corner.text.lower()]
        self.thing = random.choice(words_for_row)
        self.num_rows = len(table.rows.cells)

    def _ask(self, templates: tuple[str, ...], **pieces: Written | str) -> Written:
        return asked(self.random, templates, rows=self.thing, **pieces)

    def _head(self, column: Column) -> Written:
        """The column's name; its unit belongs to it only where it cannot be left out."""
        written = self.places[column.head]
        name = column.head.text.partition(" (")[0]
        names = [other.head.text.partition(" (")[0] for other in self.table.columns]
        return written[: len(name)] if names.count(name) == 1 and self.random.random() < 0.6 else written

    def _some(self) -> tuple[int, Column]:
        return self.random.randrange(self.num_rows), self.random.choice(self.table.columns)

    def _row(self, number: int) -> Written:
        return self.places[self.table.rows.cells[number]]

    def cell(self) -> Question:
        number, column = self._some()
        value = self.places[column.cells[number]]
        if len(self.table.columns) == 1 and self.random.random() < 0.5:
            return Question(self._ask(ONLY_CELL, row=self._row(number)), value, "table")
        return Question(self._ask(CELL, column=self._head(column), row=self._row(number)), value, "table")

    def missing(self) -> Question | None:
        """A row or a column that the table does not have."""
        number, column = self._some()
        printed = {written.text.lower() for written in self.places.values()}
        other = self.random.choice((*NUMBER_HEADS, *HEADS))
        stranger = words.label_set(self.random, 2)[0]
        if any(text in key or key in text for key in printed for text in (other.lower(), stranger.lower())):
            return None
        if self.random.random() < 0.5:
            return absent(self._ask(CELL, column=other, row=self._row(number)))
        return absent(self._ask(CELL, column=self._head(column), row=stranger))

    def _extreme(self) -> tuple[Column, int, bool] | None:
        """A column of numbers, the row of its highest or lowest value if that stands alone, and whether highest."""
        columns = [column for column in self.table.columns if column.values]
        if not columns or self.num_rows < 2:
            return None
        column = self.random.choice(columns)
        order = sorted(range(self.num_rows), key=lambda number: (column.values or ())[number])
        highest = self.random.random() < 0.6
        best, second = (order[-1], order[-2]) if highest else (order[0], order[1])
        return None if column.cells[best].text == column.cells[second].text else (column, best, highest)

    def extreme(self) -> Question | None:
        found = self._extreme()
        if found is None:
            return None
        column, best, highest = found
        question = self._ask(HIGHEST if highest else LOWEST, column=self._head(column))
        return Question(question, self._row(best), "table", self.places[column.cells[best]])

    def extreme_value(self) -> Question | None:
        found = self._extreme()
        if found is None:
            return None
        column, best, highest = found
        question = self._ask(HIGHEST_VALUE if highest else LOWEST_VALUE, column=self._head(column))
        return Question(question, self.places[column.cells[best]], "table")

    def _two(self) -> tuple[Column, int, int] | None:
        """Two rows of a column of numbers, the larger first."""
        columns = [column for column in self.table.columns if column.values]
        if not columns or self.num_rows < 2:
            return None
        column = self.random.choice(columns)
        one, other = self.random.sample(range(self.num_rows), 2)
        if column.cells[one].text == column.cells[other].text:
            return None
        values = column.values or ()
        return (column, one, other) if values[one] > values[other] else (column, other, one)

    def more(self) -> Question | None:
        found = self._two()
        if found is None:
            return None
        column, larger, smaller = found
        pair = [self._row(larger), self._row(smaller)]
        self.random.shuffle(pair)
        question = self._ask(MORE, column=self._head(column), one=pair[0], other=pair[1])
        return Question(question, self._row(larger), "table", self.places[column.cells[larger]])

    def difference(self) -> Question | None:
        found = self._two()
        if found is None:
            return None
        column, larger, smaller = found
        one, other = column.cells[larger].text, column.cells[smaller].text
        if not (_is_plain(one) and _is_plain(other)):
            return None
        decimals = max(len(text.partition(".")[2]) for text in (one, other))
        question = self._ask(DIFFERENCE, column=self._head(column), one=self._row(larger), other=self._row(smaller))
        answer = unprinted(f"{float(one) - float(other):.{decimals}f}")
        return Question(question, answer, "table", self.places[column.cells[larger]])

    def which_row(self) -> Question | None:
        number, column = self._some()
        texts = [cell.text for cell in column.cells]
        if texts.count(texts[number]) > 1:
            return None
        question = self._ask(WHICH_ROW, column=self._head(column), value=self.places[column.cells[number]])
        return Question(question, self._row(number), "table")

    def count_rows(self) -> Question:
        return Question(self._ask(NUM_ROWS), unprinted(str(self.num_rows)), "table")

    def num_columns(self) -> Question:
        return Question(self._ask(NUM_COLUMNS), unprinted(str(len(self.table.columns) + 1)), "table")

    def _all_columns(self) -> list[Column]:
        return [self.table.rows, *self.table.columns]

    def heads(self) -> Question:
        heads = [self.places[column.head] for column in self._all_columns() if column.head in self.places]
        return Question(self._ask(HEAD_NAMES), joined(heads, ", "), "table")

    def column(self) -> Question | None:
        column = self.random.choice([column for column in self._all_columns() if column.head in self.places])
        answer = joined([self.places[cell] for cell in column.cells], ", ")
        if len(answer.text) > LONGEST_JSON / 2:
            return None
        return Question(self._ask(ROW_NAMES, column=self.places[column.head]), answer, "table")

    def title(self) -> Question | None:
        question = self._ask(TITLE)
        if self.table.title is None:
            return absent(self._ask(("What is the title?", "Title of the table?", "Read the title.")))
        return Question(question, self.places[self.table.title], "table")

    def total(self) -> Question | None:
        if self.table.totals is None:
            return None
        number = self.random.randrange(len(self.table.columns))
        question = self._ask(TOTAL_OF, column=self._head(self.table.columns[number]))
        return Question(question, self.places[self.table.totals[number + 1]], "table")

    # JSON and Markdown ---------------------------------------------------------------------------

    def _pairs(self, number: int, columns: list[Column]) -> list[tuple[Written | str, Written | None]]:
        return [(self.places[column.head], self.places[column.cells[number]]) for column in columns]

    def row_as_json(self) -> Question | None:
        number = self.random.randrange(self.num_rows)
        answer = json_object(self._pairs(number, list(self.table.columns)))
        question = self._ask(ROW_AS_JSON, row=self._row(number))
        return Question(question, answer, "table") if len(answer.text) <= LONGEST_JSON else None

    def column_as_json(self) -> Question | None:
        column = self.random.choice(self.table.columns)
        answer = json_object([(self._row(n), self.places[column.cells[n]]) for n in range(self.num_rows)])
        question = self._ask(COLUMN_AS_JSON, column=self._head(column))
        return Question(question, answer, "table") if len(answer.text) <= LONGEST_JSON else None

    def all_as_json(self) -> Question | None:
        if self.corner is None:
            return None
        answer = json_list([json_object(self._pairs(n, self._all_columns())) for n in range(self.num_rows)])
        return Question(self._ask(ALL_AS_JSON), answer, "table") if len(answer.text) <= LONGEST_JSON else None

    def some_as_json(self) -> Question | None:
        """Columns that the question names."""
        random = self.random
        columns = [column for column in self._all_columns() if column.head in self.places]
        chosen = random.sample(columns, random.randint(1, min(3, len(columns))))
        answer = json_list([json_object(self._pairs(n, chosen)) for n in range(self.num_rows)])
        if len(answer.text) > LONGEST_JSON:
            return None
        keys = [column.head.text for column in chosen]
        question = asked(
            random, LISTS_AS_JSON, keys=key_list(random, keys), list=f"[{key_braces(random, keys)}]", things="rows",
            thing="row",
        )  # fmt: skip
        return Question(question, answer, "table")

    def as_text(self) -> Question | None:
        """The whole table, as Markdown or line by line."""
        heads = [self.places.get(column.head, unprinted("")) for column in self._all_columns()]
        rows = [[self.places[column.cells[n]] for column in self._all_columns()] for n in range(self.num_rows)]
        if self.table.totals is not None:
            rows.append([self.places[piece] for piece in self.table.totals])
        if self.random.random() < 0.5:
            lines = [joined([unprinted("| "), joined(row, " | "), unprinted(" |")]) for row in [heads, *rows]]
            lines.insert(1, unprinted("|" + " --- |" * len(heads)))
            question, skill = self._ask(MARKDOWN), "table"
        else:
            lines = [joined([cell for cell in row if cell.text], " ") for row in [heads, *rows]]
            if self.table.title is not None:
                return None
            question, skill = self._ask(AS_LINES), "transcribe"
        answer = joined(lines, "\n")
        return Question(question, answer, skill) if len(answer.text) <= LONGEST_JSON else None
