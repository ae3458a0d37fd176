"""Check digits of EU VAT numbers, for the countries with most of the trade.

The rules are those that the tax offices publish, as python-stdnum collects them. A number of another country, or
one without a check digit, is neither right nor wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def is_valid(text: str) -> bool | None:
    """Return whether a VAT number's check digit is right; None if its country is not known here."""
    number = re.sub(r"[\s.\-/:]", "", text).upper()
    found = re.fullmatch(r"([A-Z]{2})([0-9A-Z+*]{2,13})", number)
    if found is None or found[1] not in COUNTRIES:
        return None
    pattern, judge = COUNTRIES[found[1]]
    return bool(re.fullmatch(pattern, found[2])) and judge(found[2])


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def _luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _germany(number: str) -> bool:
    """ISO 7064, modulus 11,10."""
    product = 10
    for digit in number[:8]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[8])


def _france(number: str) -> bool:
    """Two check digits before a SIREN, which has its own; those with letters are not checked further."""
    if not number.isdigit():
        return True
    is_monaco = number[2:5] == "000"  # its numbers have no SIREN
    return (is_monaco or _luhn(number[2:])) and int(number[:2]) == (12 + 3 * (int(number[2:]) % 97)) % 97


def _spain(number: str) -> bool:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    if number[0].isdigit():
        return number[8] == letters[int(number[:8]) % 23]
    if number[0] in "XYZ":
        return number[8] == letters[int(str("XYZ".index(number[0])) + number[1:8]) % 23]
    if number[0] in "KLM":  # persons without a number of their own
        return number[8] == letters[int(number[1:8]) % 23]
    total = sum(int(digit) for digit in number[2:8:2])
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in number[1:8:2])
    control = -total % 10
    return number[8] in (str(control), "JABCDEFGHI"[control])


def _netherlands(number: str) -> bool:
    """Businesses by modulus 11 of nine digits; sole traders, since 2020, by modulus 97 of the whole number."""
    eleven = _weighted(number[:8], range(9, 1, -1)) % 11 == int(number[8])
    whole = int("".join(str(int(sign, 36)) if sign.isalnum() else str(36 + "+*".index(sign)) for sign in f"NL{number}"))
    return eleven or whole % 97 == 1


def _austria(number: str) -> bool:
    total = sum(sum(divmod(int(digit) * (1 + index % 2), 10)) for index, digit in enumerate(number[1:8]))
    return (96 - total) % 10 == int(number[8])


def _poland(number: str) -> bool:
    return _weighted(number, (6, 5, 7, 2, 3, 4, 5, 6, 7)) % 11 == int(number[9])


def _portugal(number: str) -> bool:
    return (11 - _weighted(number, range(9, 1, -1)) % 11) % 11 % 10 == int(number[8])


def _denmark(number: str) -> bool:
    return _weighted(number, (2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def _finland(number: str) -> bool:
    return _weighted(number, (7, 9, 10, 5, 8, 4, 2, 1)) % 11 == 0


def _luxembourg(number: str) -> bool:
    return int(number[:6]) % 89 == int(number[6:])


COUNTRIES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "AT": (r"U\d{8}", _austria),
    "BE": (r"[01]\d{9}", lambda number: (int(number[:8]) + int(number[8:])) % 97 == 0),
    "DE": (r"[1-9]\d{8}", _germany),
    "DK": (r"\d{8}", _denmark),
    "ES": (r"[0-9A-Z]\d{7}[0-9A-Z]", _spain),
    "FI": (r"\d{8}", _finland),
    "FR": (r"[0-9A-HJ-NP-Z]{2}\d{9}", _france),
    "IT": (r"\d{11}", _luhn),
    "LU": (r"\d{8}", _luxembourg),
    "NL": (r"[0-9A-Z+*]{9}B\d{2}|\d{9}B\d{2}", _netherlands),
    "PL": (r"\d{10}", _poland),
    "PT": (r"\d{9}", _portugal),
    "SE": (r"\d{10}01", lambda number: _luhn(number[:10])),
}
