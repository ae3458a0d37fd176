"""The query language: what a query asks for, and a sentence for each mistake."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.search.match import conditions, expression, resolve
from tessera.search.query import Filter, Query, Range, Term, parse
from tessera.search.store import TOKENS


def words_of(query: Query) -> list[list[str]]:
    return [[term.written for term in clause.options if isinstance(term, Term)] for clause in query.wanted]


def only_filter(text: str) -> Filter:
    (clause,) = parse(text).filters
    (found,) = clause.options
    assert isinstance(found, Filter)
    return found


def test_words_phrases_excluded_ones_and_alternatives() -> None:
    query = parse('invoice "vendor X" -draft red OR blue OR "dark green" paper*')
    assert words_of(query) == [["invoice"], ["vendor X"], ["red", "blue", "dark green"], ["paper"]]
    assert [clause.options[0].written for clause in query.excluded] == ["draft"]
    assert [term.prefix for term in query.terms] == [False, False, False, False, False, True]


def test_words_between_words_are_left_out_unless_there_is_nothing_else() -> None:
    assert words_of(parse("invoice from March, vendor X")) == [["invoice"], ["March,"], ["vendor"], ["X"]]
    assert words_of(parse("who is it")) == [["who"], ["is"], ["it"]]
    assert words_of(parse('"the" end')) == [["the"], ["end"]]


def test_typographic_quotes_are_quotes() -> None:
    assert words_of(parse("“two words” „zwei Worte“")) == [["two words"], ["zwei Worte"]]


@pytest.mark.parametrize(
    ("text", "numbers", "days"),
    [
        ("total:>100", Range(100, None, over=True), None),
        ("total:>=100.50", Range(100.5, None), None),
        ("total:<90", Range(None, 90, under=True), None),
        ("total:50..90", Range(50, 90), None),
        ("total:..90", Range(None, 90), None),
        ("total:-5", Range(-5, -5), None),
        ("date:2026-03", None, Range("2026-03-01", "2026-03-31")),
        ("date:2024-02", None, Range("2024-02-01", "2024-02-29")),
        ("date:>2026-03", None, Range("2026-03-31", None, over=True)),
        ("date:<2026-03", None, Range(None, "2026-03-01", under=True)),
        ("date:2026-01..2026-03", None, Range("2026-01-01", "2026-03-31")),
        ("date:2026-03-05..", None, Range("2026-03-05", None)),
        ("date:2026", Range(2026, 2026), Range("2026-01-01", "2026-12-31")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_filters_are_numbers_and_periods(text: str, numbers: Range | None, days: Range | None) -> None:
    found = only_filter(text)
    assert (found.numbers, found.days) == (numbers, days)


def test_filters_are_texts_and_patterns() -> None:
    assert only_filter('vendor:"Corner Bakery"').text == "Corner Bakery"
    assert only_filter("file:*.pdf").text == "*.pdf"
    assert parse("see http://example.com").filters == ()
    assert parse("at 10:30 it began: now").filters == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names nothing to look for"),
        ("-draft", "names nothing to look for"),
        ("( , )", "names nothing to look for"),
        ('one "two', "the quote at character 5 is not closed"),
        ("OR one", "OR stands between two"),
        ("one OR", "OR stands between two"),
        ("one OR OR two", "OR stands between two"),
        ("one OR -two", "cannot join what is excluded"),
        ("one OR file:*.pdf", "joins words with words"),
        ("total:>", "has no value"),
        ("total:>much", "compares with 'much'; give a number or a date"),
        ("total:1..x", "is no range"),
        ("total:1,000", "may be 1.000 or 1000; write it without thousands"),
        ("date:2026-13", "there is no month 13"),
        ("date:2026-02-30", "that month has 28 days"),
        ("x" * 501, "the limit is 500"),
        ("x " * 40, "40 words and filters and the limit is 32"),
    ],
    ids=lambda value: value[:20],
)
def test_mistakes_are_said_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(text)


def test_a_filter_of_a_field_that_the_index_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(UsageError, match=r"asks for a field colour.*it has file, page, source, code and gross, vendor"):
        resolve(parse("colour:red"), ["vendor", "gross"])
    (clause,) = resolve(parse("total:>100"), ["vendor", "gross"]).filters
    assert clause.options[0].name == "gross"  # type: ignore[union-attr]


@given(st.text(max_size=60) | st.text(alphabet='ab\0"*^:+-(){}<>.,ORNEARAND ', max_size=40))
def test_no_text_reaches_the_database_as_syntax(text: str) -> None:
    """Whatever is typed is either refused in our words, or a query that FTS5 and SQL take."""
    try:
        query = resolve(parse(text), ["a", "b", "vendor"])
        condition = conditions(query.filters)
    except UsageError:
        return
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, about, {TOKENS})")
        connection.execute("CREATE TABLE pages (id, content, member, number, source, code)")
        connection.execute("CREATE TABLE files (content, name)")
        connection.execute("CREATE TABLE fields (content, member, name, text, number, day)")
        if query.wanted:
            for every in (True, False):
                match = expression(query.wanted, query.excluded, every=every)
                connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (match,)).fetchall()
        connection.execute(f"SELECT id FROM pages p WHERE {condition.sql}", condition.values).fetchall()
    connection.close()
