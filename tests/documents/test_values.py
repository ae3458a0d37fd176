"""Printed values get the type that people mean by them."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.documents.schemas import Kind, Leaf
from tessera.documents.values import UnreadableError, date_of, number_of, typed


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("US$261,81", 261.81), ("1.234,56 €", 1234.56), ("$1,234.50", 1234.5), ("(12.00)", -12.0), ("12.50-", -12.5),
        ("CHF 1'234.50", 1234.5), ("1,234", 1234.0), ("1.234", 1234.0), ("-$5.00", -5.0), ("EUR -5.00", -5.0),
        ("1 234,50 kr", 1234.5), ("1.234.567", 1234567.0), ("70 %", 70.0), (3, 3.0),
    ],
)  # fmt: skip
def test_amounts_are_read_in_every_notation(text: str, amount: float) -> None:
    assert number_of(text, is_amount=True) == amount


def test_a_point_before_three_digits_is_a_decimal_point_outside_of_money() -> None:
    assert number_of("1.234") == 1.234
    assert number_of("1,234") == 1234.0


@pytest.mark.parametrize("given", [10**400, float("inf"), float("nan")])
def test_a_number_beyond_all_floats_is_unreadable(given: object) -> None:
    for leaf in (Leaf("a", "number"), Leaf("a", "integer")):
        with pytest.raises(UnreadableError, match="number"):
            typed(leaf, given)


@pytest.mark.parametrize("text", ["abc", "12 x 3", "", "1.2.3"])
def test_a_text_without_one_number_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableError):
        number_of(text)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-03-05", "2024-03-05"), ("Monday, September 15, 2003", "2003-09-15"), ("5 March 2024", "2024-03-05"),
        ("15. März 2024", "2024-03-15"), ("le 3 août 2020", "2020-08-03"), ("31/12/99", "1999-12-31"),
        ("12-Jan-24", "2024-01-12"), ("12/25/2023 14:05", "2023-12-25"), ("Date: 05 Feb 2021", "2021-02-05"),
        ("3.4.2024", "2024-04-03"), ("2024-03-05T10:00", "2024-03-05"),
    ],
)  # fmt: skip
def test_dates_are_read_in_every_notation(text: str, day: str) -> None:
    assert date_of(text) == (day, None)


def test_a_date_that_may_be_another_says_so() -> None:
    assert date_of("03/04/2024") == ("2024-04-03", "03/04/2024 may be 2024-03-04 or 2024-04-03")


@pytest.mark.parametrize("text", ["2024-02-30", "32/13/2024", "soon", ""])
def test_a_text_without_a_real_date_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableError):
        date_of(text)


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        ("integer", "12345678901234567", 12345678901234567), ("integer", 9007199254740993, 9007199254740993),
        ("integer", "1.000", 1), ("text", 12, "12"), ("text", True, "true"), ("text", "", ""), ("enum", 3.0, 3),
        ("enum", "", None), ("boolean", False, False), ("number", 1e308, 1e308),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_kept_where_it_is_the_same_and_exactly(kind: Kind, given: Any, meant: Any) -> None:
    found = typed(Leaf("a", kind, choices=("x", 3)), given)[0]
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("number", float("nan")), ("number", float("inf")), ("amount", float("-inf")), ("integer", float("inf")),
        ("integer", 10**400), ("number", 10**400), ("integer", "9223372036854775808"), ("integer", 1.5),
        ("number", [1]), ("date", {"day": 1}), ("text", ["x"]), ("text", {"a": 1}), ("boolean", "yes"), ("boolean", 1),
        ("enum", "y"), ("enum", True), ("enum", [3]), ("number", True),
    ],
)  # fmt: skip
def test_a_value_that_is_none_of_its_kind_is_unreadable(kind: Kind, given: Any) -> None:
    with pytest.raises(UnreadableError):
        typed(Leaf("a", kind, choices=("x", 3)), given)
