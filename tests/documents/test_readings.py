"""Numbers and dates in many notations, against values by hand and the standard library's own writing."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.documents.readings import agree, dates_of, numbers_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,234.50", ["1234.50"]), ("1.234,50", ["1234.50"]), ("1 234,50 €", ["1234.5"]), ("$12", ["12"]),
        ("1,234", ["1234", "1.234"]), ("1'234'567.80", ["1234567.8"]), ("12,34,567.00", ["1234567"]),
        ("(45.00)", ["-45"]), ("45.00-", ["-45"]), ("- 3", ["-3"]), ("−3", ["-3"]), ("EUR 7,5", ["7.5"]),
        (".50", ["0.5"]), ("1.2.3", []), ("12a", []), ("", []), ("1,23,4", []), ("20%", ["20"]), ("1" * 65, []),
        ("1.234.567", ["1234567"]), ("CHF 1’200.–", []),
    ],
)  # fmt: skip
def test_numbers(text: str, values: list[str]) -> None:
    assert numbers_of(text) == {Decimal(value) for value in values}


@given(st.decimals(-(10**9), 10**9, places=2))
def test_every_amount_is_read_from_english_and_german_notation(amount: Decimal) -> None:
    english = f"{amount:,.2f}"
    assert amount in numbers_of(english)
    assert amount in numbers_of(english.translate(str.maketrans(",.", ".,")))


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("2026-03-05", [(2026, 3, 5)]), ("5 March 2026", [(2026, 3, 5)]), ("March 5, 2026", [(2026, 3, 5)]),
        ("05.03.2026", [(2026, 3, 5), (2026, 5, 3)]), ("5. Mai 2026", [(2026, 5, 5)]),
        ("31/12/26", [(2026, 12, 31), (1926, 12, 31)]),
        ("5th of March 2026", [(2026, 3, 5)]), ("Thursday, 5 March 2026", [(2026, 3, 5)]), ("5-Mar-26", [(2026, 3, 5)]),
        ("1er mars 2026", []), ("5 de mayo de 2026", [(2026, 5, 5)]), ("2026-03-05T10:00:00", [(2026, 3, 5)]),
        ("2026-13-05", []), ("March 2026", []), ("marked 5 2026", []), ("1.234,50", []), ("12", []),
        ("2026/3/5", [(2026, 3, 5)]),
    ],
)  # fmt: skip
def test_dates(text: str, dates: list[tuple[int, int, int]]) -> None:
    assert dates_of(text) == {date(*each) for each in dates}


@given(st.dates(date(1950, 1, 1), date(2049, 12, 31)), st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %b %Y", "%B %d, %Y", "%a, %d %B %Y"]))  # fmt: skip # noqa: E501
def test_every_date_is_read_from_what_strftime_writes(day: date, style: str) -> None:
    assert day in dates_of(day.strftime(style))


def test_values_agree_by_what_they_mean() -> None:
    assert agree(1234.5, "1.234,50 €")
    assert agree("2026-03-05", "5 March 2026")
    assert agree("Café  MÜLLER", "cafe müller")
    assert agree(None, None)
    assert not agree(None, "")
    assert not agree(1, True)
    assert not agree("12.50", "12.51")
    assert not agree("Acme", "Acne")
    assert agree(["a"], ["a"])
