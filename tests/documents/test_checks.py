"""Checks find wrong sums, dates and numbers, and stay silent where a value is missing.

IBANs are the examples of the SWIFT registry, VAT numbers those of python-stdnum's documentation.
"""

from __future__ import annotations

import pytest

from tessera.documents import vat
from tessera.documents.checks import is_iban, parse_check, run_checks
from tessera.documents.presets import named
from tessera.documents.schemas import make_schema
from tessera.errors import UsageError

IBANS = (
    "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19", "FR14 2004 1010 0505 0001 3M02 606",
    "NL91 ABNA 0417 1643 00", "ES91 2100 0418 4502 0005 1332", "IT60 X054 2811 1010 0000 0123 456",
    "PL61 1090 1014 0000 0712 1981 2874", "AT61 1904 3002 3457 3201", "BE68 5390 0754 7034",
    "CH93 0076 2011 6238 5295 7", "NO93 8601 1117 947", "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
)  # fmt: skip
VAT_NUMBERS = (
    "DE 136 695 976", "FR 40 303 265 045", "IT 00743110157", "ES B58378431", "ES 54362315K",
    "ES X2482300W", "NL 004495445B01", "NL 002455799B11", "BE 0411905847", "ATU13585627",
    "PL 8567346215", "PT 501964843", "DK 13585628", "FI 20774740", "LU 15027442", "SE 123456789701", "FR 53000004605",
)  # fmt: skip
INVOICE = {
    "net": 30.0, "tax": 5.7, "gross": 35.7, "date": "2026-03-01", "due": "2026-03-15", "iban": IBANS[0],
    "items": [{"quantity": 2.0, "price": 10.0, "amount": 20.0}, {"quantity": 1.0, "price": 10.0, "amount": 10.0}],
}  # fmt: skip


@pytest.mark.parametrize("iban", IBANS)
def test_a_changed_digit_makes_an_iban_wrong(iban: str) -> None:
    assert is_iban(iban)
    place = max(index for index, sign in enumerate(iban) if sign.isdigit())
    assert not is_iban(iban[:place] + str((int(iban[place]) + 1) % 10) + iban[place + 1 :])


@pytest.mark.parametrize("number", VAT_NUMBERS)
def test_a_changed_digit_makes_a_vat_number_wrong(number: str) -> None:
    assert vat.is_valid(number) is True
    place = 8 if number.startswith("NL") else max(i for i, sign in enumerate(number[:-1]) if sign.isdigit())
    assert vat.is_valid(number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]) is False


@pytest.mark.parametrize("number", ["GB 980780684", "12345", "", "a name"])
def test_a_number_of_an_unknown_country_is_neither_right_nor_wrong(number: str) -> None:
    assert vat.is_valid(number) is None


def texts(value: dict[str, object]) -> list[str]:
    preset = named("invoice")
    return [failure.text for failure in run_checks(preset.checks, value, preset.schema)]


def test_a_sound_invoice_passes() -> None:
    assert texts(INVOICE) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"net": 31.0}, "sum(items[].amount) = net does not hold: 30 and 31"),
        ({"gross": 36.0}, "net + tax = gross does not hold: 35.7 and 36"),
        ({"due": "2026-02-01"}, "date <= due does not hold: 2026-03-01 and 2026-02-01"),
        ({"iban": "DE88370400440532013000"}, "check digits"),
        ({"vendor_tax_id": "DE136695977"}, "check digits"),
        ({"items": [{"quantity": 2.0, "price": 10.0, "amount": 30.0}]}, "in row 1: 20 and 30"),
    ],
)
def test_each_mistake_is_found(change: dict[str, object], part: str) -> None:
    assert any(part in text for text in texts(INVOICE | change))


@pytest.mark.parametrize("missing", ["net", "gross", "due", "iban", "items"])
def test_a_missing_value_is_no_mistake(missing: str) -> None:
    assert texts({**INVOICE, missing: [] if missing == "items" else None}) == []


def test_a_rounded_cent_is_no_mistake_and_a_whole_one_more_is() -> None:
    assert texts(INVOICE | {"gross": 35.71}) == []
    assert texts(INVOICE | {"gross": 35.73})


def test_the_failure_names_the_fields_of_its_row() -> None:
    preset = named("invoice")
    value = INVOICE | {"items": [INVOICE["items"][0], {"quantity": 3.0, "price": 10.0, "amount": 10.0}]}  # type: ignore[index]
    failures = [each for each in run_checks(preset.checks, value, preset.schema) if "row 2" in each.text]
    assert [set(each.paths) for each in failures] == [{"items[1].quantity", "items[1].price", "items[1].amount"}]


def test_rows_of_rows_are_compared_with_what_stands_outside() -> None:
    preset = named("chart-data")
    points = [{"x": "a", "y": 3.0}, {"x": "b", "y": 12.0}]
    value = {"y_min": 0.0, "y_max": 10.0, "series": [{"name": "s", "points": points}]}
    (failure,) = run_checks(preset.checks, value, preset.schema)
    assert failure.paths == ("series[0].points[1].y", "y_max")


def test_ranges_of_the_schema_are_checked() -> None:
    schema = make_schema("s", {"properties": {"share": {"type": "number", "minimum": 0, "maximum": 1}}})
    assert [each.paths for each in run_checks((), {"share": 1.5}, schema)] == [("share",)]
    assert run_checks((), {"share": 0.5}, schema) == []


def test_rows_are_counted() -> None:
    preset = named("table")
    rows = [{"cells": ["a"]}, {"cells": ["b"]}]
    assert run_checks(preset.checks, {"row_count": 2, "rows": rows}, preset.schema) == []
    assert run_checks(preset.checks, {"row_count": 3, "rows": rows}, preset.schema)


@pytest.mark.parametrize("check", ["net + tax", "net = = gross", "sum(items[].amount) = nothing", "__import__('os')"])
def test_a_check_that_is_not_understood_is_refused(check: str) -> None:
    with pytest.raises(UsageError):
        parse_check(check, named("invoice").schema)
