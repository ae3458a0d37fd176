"""Replies that loop, break off or are no JSON are known; what was whole before the break is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.documents.repeats import completed, loops, problem_of
from tests.documents.fakes import completion


@pytest.mark.parametrize(
    "text",
    [
        "The total is " + "10.01 " * 40,
        "Man " * 60,
        "a" * 200,
        '{"items": [' + '{"name": "Tea", "amount": 2}, ' * 30,
        "one line\nanother line of text\n" * 12,
        "# Receipt\n\n```\n" + "Man " * 60 + "\n```\n",
    ],
)
def test_a_text_that_ends_in_circles_is_a_loop(text: str) -> None:
    assert loops(text, plain=False)
    assert loops(text, plain=True)


@pytest.mark.parametrize(
    "text",
    [
        "# Receipt\n\n" + "Sub total 10.01\n" * 30 + "Thank you for your visit.",
        "Tea 2.50\n\nMilk 1.10\n\n" * 15 + "Thank you for your visit.",
        "A line.\n" + "and of the " * 40 + "\n\nThe end of the page.",
        "| 0,00 | 0,00 |\n" * 60 + "| Summe | 0,00 |",
    ],
)
def test_a_plain_text_may_go_on_after_its_circles(text: str) -> None:
    assert loops(text, plain=True)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("row", "is_loop"), [({"name": "Tea", "amount": 2}, True), ({"name": None, "amount": None}, False), (5.0, False)]
)
def test_equal_rows_with_values_are_a_loop_however_they_are_laid_out(
    row: object, is_loop: bool, indent: int | None
) -> None:
    text = json.dumps({"vendor": "A", "items": [row] * 20, "total": 100.0}, indent=indent)
    assert loops(text, plain=False) == is_loop


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n| --- | --- |\n" + "\n".join(f"| item {n} | {n * 1.5:.2f} |" for n in range(40)),
        '{"items": [' + ", ".join(f'{{"name": "Tea", "amount": {n}}}' for n in range(40)) + "]}",
        '{"items": [' + ", ".join(['{"name": null, "amount": null}'] * 40) + "]}",
        "Title\n" + "-" * 100 + "\n",
        "| 0 |" + " 0 |" * 40 + "\n| 1 |" + " 2 |" * 40 + "\n\nTotal: 80",
        "- Ja\n- Nein\n" * 5 + "\nUnterschrift",
        "| Einnahmen | Ausgaben |\n| --- | --- |\n" + "| 0,00 | 0,00 |\n" * 20 + "| Summe | 0,00 |",
        "Preise\n\n" + "5,00\n" * 20 + "\nSumme 100,00",
        "| Einnahmen | Ausgaben |\n| --- | --- |\n" + "| 0,00 | 0,00 |\n" * 20,
        "",
    ],
)
def test_long_tables_and_rules_are_no_loops(text: str) -> None:
    assert not loops(text, plain=False)
    assert not loops(text, plain=True)


def test_each_problem_has_its_name() -> None:
    assert problem_of(completion('{"a": 1}'), plain=False) is None
    assert problem_of(completion('{"a": 1', "length"), plain=False) == "length"
    assert problem_of(completion("no json"), plain=False) == "invalid"
    assert problem_of(completion("no json"), plain=True) is None
    assert problem_of(completion("x " * 100, "length"), plain=True) == "loop"


def test_a_cut_reply_keeps_its_whole_rows() -> None:
    text = '{"vendor": "A, B", "items": [{"n": "x", "p": 1}, {"n": "y", "p'
    assert json.loads(completed(text)) == {"vendor": "A, B", "items": [{"n": "x", "p": 1}, {"n": "y"}]}


VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), VALUES, max_size=4), st.data())
def test_any_cut_completes_to_json(value: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert isinstance(json.loads(completed(cut)), dict)
    assert json.loads(completed(text)) == value
