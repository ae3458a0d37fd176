"""Printed values given their type: amounts, numbers and dates, as people write them in several countries.

Nothing is guessed silently: a date that may be read in two ways says so.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from tessera.documents.schemas import Leaf

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar janvier enero gennaio januari janv ene gen",
            "feb february februar fevrier février febrero febbraio februari févr fevr",
            "mar march märz maerz mars marzo maart mär mrz mrt",
            "apr april avril abril aprile avr abr",
            "may mai mayo maggio mei mag",
            "jun june juni juin junio giugno giu",
            "jul july juli juillet julio luglio juil lug",
            "aug august aout août agosto augustus ago",
            "sep september septembre septiembre settembre sept set",
            "oct october oktober octobre octubre ottobre okt ott",
            "nov november novembre noviembre",
            "dec december dezember decembre décembre diciembre dicembre dez dic déc",
        ),
        1,
    )
    for name in names.split()
}
NUMBER = re.compile(r"\d[\d.,'’   ]*")
ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
DIGITS = re.compile(r"(\d{1,2})\s*[-/.]\s*(\d{1,2})\s*[-/.]\s*(\d{4}|\d{2})(?!\d)")
NAMED = re.compile(
    r"(?:(\d{1,2})(?:st|nd|rd|th|\.)?[\s-]*(?:de\s+)?)?([^\W\d_]{3,10})\.?[\s-]*(\d{1,2})?(?:st|nd|rd|th)?\b"
)
YEAR = re.compile(r"(?<!\d)(\d{4})(?!\d)|['’](\d{2})(?!\d)|[-\s](\d{2})$")


class Unreadable(ValueError):
    """A text that holds no value of the wanted kind; the text says why."""


def typed(leaf: Leaf, given: Any) -> tuple[Any, str | None]:
    """Return a written value in its leaf's type, and a doubt about it or None. Raises Unreadable."""
    if given is None or (given == "" and leaf.kind != "text"):
        return None, None
    if leaf.kind in ("number", "amount", "integer"):
        number = number_of(given, is_amount=leaf.kind == "amount")
        if leaf.kind == "integer" and number != int(number):
            raise Unreadable(f"{given!r} is no whole number")
        return (int(number) if leaf.kind == "integer" else number), None
    if leaf.kind == "date":
        return date_of(str(given))
    return given, None


def number_of(given: Any, *, is_amount: bool = False) -> float:
    """Read a number with its separators and signs: "1.234,50 EUR", "$1,234.50", "(12.00)", "CHF 1'234.50"."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    text = str(given).strip()
    found = [each.strip(".,'’   ") for each in NUMBER.findall(text)]
    if len(found) != 1:
        raise Unreadable(f"{text[:60]!r} holds {len(found) or 'no'} number{'s' if len(found) > 1 else ''}")
    digits = re.sub(r"['’   ]", "", found[0])
    value = float(_with_point(digits, is_amount))
    is_negative = bool(re.search(r"[-−–]\s*[^\d\s]{0,4}\s*\d", text)) or text[-1] in "-−" or re.match(r"\(.*\)", text)
    return -value if is_negative else value


def _with_point(digits: str, is_amount: bool) -> str:
    """Decide which separator is the decimal one, and write it as a point."""
    last = max(digits.rfind("."), digits.rfind(","))
    if last < 0:
        return digits
    sign, other = digits[last], "," if digits[last] == "." else "."
    after = len(digits) - last - 1
    if digits.count(sign) > 1:  # 1.234.567
        return digits.replace(sign, "").replace(other, ".")
    # Three digits after the only separator are thousands, except after a point outside of sums of money.
    if after == 3 and other not in digits and (sign == "," or is_amount) and not digits.startswith("0"):
        return digits.replace(sign, "")
    return digits[:last].replace(other, "") + "." + digits[last + 1 :]


def date_of(text: str) -> tuple[str, str | None]:
    """Read a date as ISO text, and a doubt if it may be read in two ways. Raises Unreadable."""
    if found := ISO.search(text):
        return _iso(text, *map(int, found.groups())), None
    if found := DIGITS.search(text):
        first, second, year = map(int, found.groups())
        year = _full_year(year)
        readings = [(second, first), (first, second)]  # (month, day): the day first, as in most countries
        real = [_try(year, *each) for each in readings]
        some = list(dict.fromkeys(each for each in real if each))
        if not some:
            raise Unreadable(f"{text[:60]!r} is no real date")
        doubt = f"{found[0]} may be {some[0]} or {some[1]}" if len(some) > 1 and "." not in found[0] else None
        return some[0], doubt
    for found in NAMED.finditer(text):
        month = MONTHS.get(found[2].lower())
        year_found = YEAR.search(text[found.start(2) :])
        day = found[1] or found[3]
        if month and day and year_found:
            return _iso(text, _full_year(int(next(filter(None, year_found.groups())))), month, int(day)), None
    raise Unreadable(f"{text[:60]!r} is no date")


def _full_year(year: int) -> int:
    return year if year >= 100 else 2000 + year if year < 70 else 1900 + year


def _try(year: int, month: int, day: int) -> str | None:
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _iso(text: str, year: int, month: int, day: int) -> str:
    found = _try(year, month, day)
    if found is None:
        raise Unreadable(f"{text[:60]!r} is no real date")
    return found
