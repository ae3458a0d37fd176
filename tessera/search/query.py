"""The query language: words, "phrases", -excluded ones, OR, and filters such as total:>100; parsed once.

Nothing of a query reaches SQL or FTS5 but letters and digits within quotes, and values as parameters. So there is no
syntax of SQLite's in it, and every mistake has a sentence of ours.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tessera.documents.readings import numbers_of
from tessera.errors import UsageError, shown
from tessera.search.terms import COMMON, TOKEN, folded

MAX_QUERY, MAX_TERMS = 500, 32  # characters, on the page (search.html) too, and words and filters
QUOTES = str.maketrans("“”„«»", '"' * 5)
UNSAFE = re.compile("[\x00\ud800-\udfff]")  # ends a text of FTS5; cannot be a parameter
NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*):(?!//)(?=\S)")
VALUE = re.compile(r'"[^"]*"|\S+')
WORD = re.compile(r'[^\s"]+')
COMPARISON = re.compile(r"(>=|<=|>|<|=)?(.*)", re.DOTALL)
PERIOD = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
OPERATORS = ("OR", "AND")


@dataclass(frozen=True)
class Term:
    """A word or phrase of the text, as its tokens; `prefix`: the last one may go on."""

    written: str
    tokens: tuple[str, ...]
    prefix: bool = False
    quoted: bool = False


@dataclass(frozen=True)
class Range:
    """Bounds of a number or a day; None is open."""

    low: float | str | None
    high: float | str | None
    over: bool = False  # the low bound itself does not fit
    under: bool = False


@dataclass(frozen=True)
class Filter:
    """What a field must be: a text that it holds or a pattern, or a range of numbers or of days."""

    written: str
    name: str
    text: str | None = None
    numbers: Range | None = None
    days: Range | None = None


@dataclass(frozen=True)
class Clause:
    """Alternatives, all of them terms or all filters; pages that match are wanted, or with `excluded` not."""

    options: tuple[Term, ...] | tuple[Filter, ...]
    excluded: bool = False

    @property
    def is_text(self) -> bool:
        return isinstance(self.options[0], Term)


@dataclass(frozen=True)
class Query:
    """All clauses hold for what is found; of the words, as many as can."""

    text: str
    clauses: tuple[Clause, ...]

    @property
    def wanted(self) -> tuple[Clause, ...]:
        """The clauses of words that are wanted."""
        return tuple(each for each in self.clauses if each.is_text and not each.excluded)

    @property
    def excluded(self) -> tuple[Clause, ...]:
        return tuple(each for each in self.clauses if each.is_text and each.excluded)

    @property
    def filters(self) -> tuple[Clause, ...]:
        return tuple(each for each in self.clauses if not each.is_text)

    @property
    def terms(self) -> Iterator[Term]:
        """The terms that are wanted."""
        return (term for clause in self.wanted for term in clause.options if isinstance(term, Term))

    @property
    def plain(self) -> str:
        """The wanted words alone, for a model."""
        return " ".join(term.written for term in self.terms)


def parse(text: str) -> Query:
    """Parse a query. Raises UsageError, which names the place and the way out."""
    if len(text) > MAX_QUERY:
        raise _mistake(f"the query has {len(text):,} characters and the limit is {MAX_QUERY:,}; shorten it.")
    parts = list(_parts(UNSAFE.sub(" ", text.translate(QUOTES))))
    if len(parts) > MAX_TERMS:
        raise _mistake(f"the query has {len(parts)} words and filters and the limit is {MAX_TERMS}; shorten it.")
    clauses = _joined(parts)
    if not any(not clause.excluded or not clause.is_text for clause in clauses):
        raise _mistake("the query names nothing to look for; write a word, or a filter such as file:*.pdf.")
    return Query(text, tuple(_without_common(clauses)))


Part = Clause | str  # a clause of one option, or "OR"


def _parts(text: str) -> Iterator[Part]:
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        excluded = text[place] == "-" and place + 1 < len(text) and not text[place + 1].isspace()
        begin = place + excluded
        if (name := NAME.match(text, begin)) is not None:
            place, value = _value(text, name.end())
            yield Clause((_filter(name[1], value),), excluded)
        elif text[begin] == '"':
            place, phrase = _value(text, begin)
            if tokens := _tokens(phrase):
                yield Clause((Term(phrase[1:-1].strip(), tokens, quoted=True),), excluded)
        else:
            word = WORD.match(text, begin)
            place = word.end() if word is not None else begin + 1
            written = word[0] if word is not None else ""
            if written in OPERATORS and not excluded:
                yield written
            elif tokens := _tokens(written):
                prefix = written.endswith("*") and len(tokens[-1]) > 1
                yield Clause((Term(written.rstrip("*"), tokens, prefix),), excluded)


def _value(text: str, place: int) -> tuple[int, str]:
    if text[place] == '"' and '"' not in text[place + 1 :]:
        raise _mistake(f'the quote at character {place + 1} is not closed; add another ", or take it away.')
    found = VALUE.match(text, place)
    assert found is not None  # a name is followed by something
    return found.end(), found[0]


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(TOKEN.findall(folded(text)))


def _joined(parts: list[Part]) -> list[Clause]:
    """Unite what OR joins; AND may be written, and changes nothing."""
    clauses: list[Clause] = []
    joins = False
    for place, part in enumerate(parts):
        if part in OPERATORS:
            if place in (0, len(parts) - 1) or parts[place - 1] in OPERATORS:
                raise _mistake(f'{part} stands between two words or filters; add one, or write "{part}" in quotes.')
            joins = part == "OR"
        elif isinstance(part, Clause):
            if joins:
                clauses[-1] = _either(clauses[-1], part)
            else:
                clauses.append(part)
            joins = False
    return clauses


def _without_common(clauses: list[Clause]) -> list[Clause]:
    """Leave out wanted words such as "from", unless there is nothing else."""
    rest = [each for each in clauses if not _is_common(each)]
    return rest if any(each.is_text and not each.excluded for each in rest) else clauses


def _is_common(clause: Clause) -> bool:
    (first, *others) = clause.options
    is_word = isinstance(first, Term) and not first.quoted and not clause.excluded and not others
    return is_word and isinstance(first, Term) and folded(first.written) in COMMON


def _either(one: Clause, other: Clause) -> Clause:
    if one.excluded or other.excluded:
        raise _mistake("OR cannot join what is excluded with -; write -one -other.")
    if one.is_text != other.is_text:
        raise _mistake("OR joins words with words and filters with filters; ask for them one after the other.")
    return replace(one, options=(*one.options, *other.options))


# Filters -------------------------------------------------------------------------------------


def _filter(name: str, value: str) -> Filter:
    written, name = f"{name}:{value}", name.lower()
    if value.startswith('"'):
        return Filter(written, name, text=value[1:-1])
    if ".." in value and not value.startswith("*"):
        low, _, high = value.partition("..")
        return _between(written, name, low, high)
    found = COMPARISON.fullmatch(value)
    assert found is not None  # it matches any text
    sign, rest = found[1], found[2].strip('"')
    if not rest:
        raise _mistake(f"{written} has no value; write for example {name}:>100 or {name}:2026-03.")
    number, period = _number(rest), _period(rest)
    if sign is None:
        return Filter(written, name, rest, _exactly(number), Range(*period) if period else None)
    if number is None and period is None:
        raise _mistake(f"{written} compares with {shown(rest)}; give a number or a date, such as 100 or 2026-03.")
    return Filter(written, name, None, _compared(sign, number, number), _compared(sign, *(period or (None, None))))


def _between(written: str, name: str, low: str, high: str) -> Filter:
    numbers, periods = [_number(each) if each else None for each in (low, high)], [_period(low), _period(high)]
    given = [bool(low), bool(high)]
    as_number = any(given) and [each is not None for each in numbers] == given
    as_day = any(given) and [each is not None for each in periods] == given
    if not as_number and not as_day:
        raise _mistake(f"{written} is no range; write two numbers or two dates, such as 50..90 or 2026-01..2026-03.")
    first, last = periods
    days = Range(first and first[0], last and last[1]) if as_day else None
    return Filter(written, name, None, Range(numbers[0], numbers[1]) if as_number else None, days)


def _exactly(number: float | None) -> Range | None:
    return None if number is None else Range(number, number)


def _compared(sign: str, low: float | str | None, high: float | str | None) -> Range | None:
    """A value, or a period from `low` to `high`, compared: > 2026-03 is after March, >= from its first day."""
    if low is None:
        return None
    return {
        ">": Range(high, None, over=True), ">=": Range(low, None), "<": Range(None, low, under=True),
        "<=": Range(None, high), "=": Range(low, high),
    }[sign]  # fmt: skip


def _number(text: str) -> float | None:
    found = numbers_of(text)
    if len(found) > 1:
        raise _mistake(f"{text} may be {' or '.join(map(str, sorted(found)))}; write it without thousands' signs.")
    return float(next(iter(found))) if found else None


def _period(text: str) -> tuple[str, str] | None:
    """The first and last day of a year, a month or a day; None if the text is none of them."""
    found = PERIOD.fullmatch(text)
    if found is None:
        return None
    year, month, day = (int(part) if part else None for part in found.groups())
    assert year is not None
    if month is None:
        return f"{year:04}-01-01", f"{year:04}-12-31"
    if not 1 <= month <= 12 or year == 0:
        raise _mistake(f"{text} is no date: there is no month {month}; write YYYY-MM-DD, YYYY-MM or YYYY.")
    last = calendar.monthrange(year, month)[1]
    if day is None:
        return f"{year:04}-{month:02}-01", f"{year:04}-{month:02}-{last:02}"
    if not 1 <= day <= last:
        raise _mistake(f"{text} is no date: that month has {last} days; write YYYY-MM-DD, YYYY-MM or YYYY.")
    return (f"{year:04}-{month:02}-{day:02}",) * 2


def _mistake(text: str) -> UsageError:
    return UsageError(text, param="q")
