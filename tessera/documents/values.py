"""Printed values given their type: of what a text may mean, the likeliest, and a doubt where another is as likely.

`readings` knows the notations. A lone "1,234" in a sum of money is a thousand, a date's day comes first unless that
is no date, and a year of two digits is a recent one.
"""

from __future__ import annotations

import json
import math
import re
from datetime import date
from decimal import Decimal
from typing import Any

from tessera.documents.readings import dates_of, numbers_of
from tessera.documents.schemas import Leaf

NUMBER = re.compile(r"\d[\d.,'’\u00a0\u202f ]*")
NEGATIVE = re.compile(r"\(.*\)|.*[-\u2212]|[^\d]*[-\u2212\u2013][^\d]{0,6}\d.*", re.DOTALL)
DIGITS = re.compile(r"(?<!\d)\d{1,4}\s?[-/.]\s?\d{1,2}\s?[-/.]\s?\d{2,4}(?!\d)")
NAMED = re.compile(
    r"(?:\d{1,2}[a-z.]{0,3}[\s-]*(?:de )?)?[^\W\d_]{3,10}\.?[\s-]*(?:de )?[\d']{1,4}\w{0,2}(?:,?\s+\d{4})?"
)
LARGEST = 2**63 - 1  # of whole numbers, as tables keep them
LATEST = 15  # years from now that a year of two digits may lie ahead


class UnreadableError(ValueError):
    """A text that holds no value of the wanted kind; the text says why."""


def typed(leaf: Leaf, given: Any) -> tuple[Any, str | None]:
    """Return a written value in its leaf's type, and a doubt about it or None. Raises UnreadableError.

    Not every server keeps replies to their schema, so a value of any type may be given.
    """
    if leaf.kind == "enum" and given is not None:
        return _choice(leaf, given), None
    if given is None or (given == "" and leaf.kind != "text"):
        return None, None
    if leaf.kind == "integer":
        return _whole(given), None
    if leaf.kind in ("number", "amount"):
        return number_of(given, is_amount=leaf.kind == "amount"), None
    if leaf.kind == "boolean" and not isinstance(given, bool):
        raise UnreadableError(f"{_brief(given)} is neither true nor false")
    if leaf.kind == "date":
        return date_of(_text(given))
    return (given if leaf.kind == "boolean" else _text(given)), None


def _choice(leaf: Leaf, given: Any) -> Any:
    for each in leaf.choices:
        if each == given and isinstance(each, bool) == isinstance(given, bool):
            return each
    if given == "":
        return None
    raise UnreadableError(f"{_brief(given)} is none of the enum's values")


def _text(given: Any) -> str:
    if isinstance(given, list | dict):
        raise UnreadableError(f"{_brief(given)} is {'a list' if isinstance(given, list) else 'an object'} and no text")
    return given if isinstance(given, str) else json.dumps(given)


def _brief(given: Any) -> str:
    return repr(given)[:60] if isinstance(given, str | int | float) else type(given).__name__


def _whole(given: Any) -> int:
    number = _decimal_of(given, is_amount=False)
    if number != number.to_integral_value():
        raise UnreadableError(f"{_brief(given)} is no whole number")
    if abs(number) > LARGEST:
        raise UnreadableError(f"{_brief(given)} is above {LARGEST:,}; describe such numbers as a string")
    return int(number)


def number_of(given: Any, *, is_amount: bool = False) -> float:
    """Read the one number in a text: "1.234,50 EUR", "$1,234.50", "(12.00)", "CHF 1'234.50"."""
    number = float(_decimal_of(given, is_amount=is_amount))
    if not math.isfinite(number):
        raise UnreadableError(f"{_brief(given)} is too large a number")
    return number


def _decimal_of(given: Any, *, is_amount: bool) -> Decimal:
    """Read the one number in a text exactly."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        if isinstance(given, float) and not math.isfinite(given):
            raise UnreadableError(f"{given} is no finite number")
        return Decimal(repr(given))
    text = _text(given).strip()
    found = [each.rstrip(" \u00a0\u202f.,'’") for each in NUMBER.findall(text)]
    if len(found) != 1:
        raise UnreadableError(f"{text[:60]!r} holds {'no number' if not found else f'{len(found)} numbers'}")
    meant = sorted(numbers_of(found[0]), key=lambda value: _has_decimals(value))
    if not meant:
        raise UnreadableError(f"{text[:60]!r} is no number")
    # A comma before three digits divides thousands; a point does so in sums of money only.
    value = meant[0] if is_amount or "," in found[0] or "'" in found[0] or " " in found[0] else meant[-1]
    return -value if NEGATIVE.fullmatch(text) else value


def _has_decimals(value: Decimal) -> bool:
    return value != value.to_integral_value() or value.as_tuple().exponent != 0


def date_of(text: str) -> tuple[str, str | None]:
    """Read a date as ISO text, and a doubt if it may be another. Raises UnreadableError."""
    parts = [text, *(found[0] for pattern in (DIGITS, NAMED) for found in pattern.finditer(text))]
    said, meant = next(((part, found) for part in parts if (found := dates_of(part.replace("'", " ")))), ("", None))
    if not meant:
        raise UnreadableError(f"{text[:60]!r} is no date")
    recent = [each for each in meant if each.year <= date.today().year + LATEST]
    year = max(each.year for each in recent or meant)
    some = [each for each in meant if each.year == year]
    first = re.match(r"\D*(\d{1,2})(?!\d)", said)
    likely = [each for each in some if first and each.day == int(first[1])] or sorted(some)
    doubtful = len(some) > 1 and "." not in said  # with points, the day comes first wherever they are used
    doubt = f"{said.strip()[:40]} may be {' or '.join(sorted(map(str, some)))}" if doubtful else None
    return likely[0].isoformat(), doubt
