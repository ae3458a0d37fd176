"""What a printed text may mean: its numbers and dates in every notation that fits, and if two values are the same.

"1,234" may be one thousand or 1.234, and "03/05/2026" March or May: a text has several readings, and two texts agree
if they share one. Nothing here guesses a country.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any

MAX_CHARACTERS = 64  # of a number or date; longer texts are neither
MONTHS = (
    # English, German, French, Spanish, Italian, Dutch and Portuguese, without accents.
    "january januar janvier enero gennaio januari janeiro", "february februar fevrier febrero febbraio fevereiro",
    "march marz maerz mars marzo maart marco mrz mrt", "april avril abril aprile", "may mai mayo maggio mei maio",
    "june juni juin junio giugno junho", "july juli juillet julio luglio julho", "august aout agosto augustus",
    "september septembre septiembre setiembre settembre setembro", "october oktober octobre octubre ottobre outubro",
    "november novembre noviembre novembro", "december dezember decembre diciembre dicembre dezembro",
)  # fmt: skip
NAMES = [(name, month) for month, names in enumerate(MONTHS, 1) for name in names.split()]
MONTH_OF = {name[:length]: month for name, month in NAMES for length in (3, 4, len(name))} | {"juil": 7, "mar": 3}
CURRENCY = re.compile(r"[$€£¥₹%]|\b(?:usd|eur|gbp|chf|jpy|cad|aud|inr|sek|nok|dkk|pln|kr|fr|rs)\b\.?", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?\d[\d.,' ]*|[-+]?\.\d+")
DATE = re.compile(r"(\d{1,4})[-/. ]+(\d{1,2})[-/. ]+(\d{1,4})")
NAMED_DATE = re.compile(r"(?:(\d{1,2})(?:st|nd|rd|th)?[-. ]*(?:de |of )?)?([a-z]{3,10})[-., ]*(?:de )?(\d{1,4})(?:st|nd|rd|th)?(?:[, ]+(\d{4}))?")  # fmt: skip # noqa: E501


def plain(text: str) -> str:
    """Fold case, width, accents and white space: two texts that read the same to people are equal then."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(char for char in folded if not unicodedata.combining(char)).split())


@lru_cache(maxsize=50_000)
def numbers_of(text: str) -> frozenset[Decimal]:
    """The numbers that a whole text may mean, whatever its currency: "1.234,50 €" is 1234.5; empty if it is none."""
    if len(text) > MAX_CHARACTERS:
        return frozenset()
    kept = CURRENCY.sub(" ", unicodedata.normalize("NFKC", text).replace("−", "-").replace("’", "'")).strip()
    negative = False
    if kept.startswith("(") and kept.endswith(")"):  # as accountants write it
        negative, kept = True, kept[1:-1].strip()
    if kept.endswith("-"):
        negative, kept = True, kept[:-1].strip()
    match = NUMBER.fullmatch(re.sub(r"^([-+])\s+", r"\1", kept))
    if match is None:
        return frozenset()
    sign = -1 if negative or match[0].startswith("-") else 1
    digits = match[0].lstrip("+-").strip()
    return frozenset(sign * value for value in _values(digits))


def _values(digits: str) -> set[Decimal]:
    """All numbers that digits with points, commas, quotes and spaces may mean."""
    digits = digits.rstrip(".,' ")
    groups = re.split(r"[.,' ]", digits)
    signs = re.findall(r"[.,' ]", digits)
    if not all(each.isdigit() or (number == 0 and not each) for number, each in enumerate(groups)):
        return set()
    if not signs:
        return {Decimal(digits)}
    found = set()
    thousands = all(len(each) == 3 for each in groups[1:]) and 1 <= len(groups[0]) <= 3 and len(set(signs)) == 1
    indian = all(len(each) in (2, 3) for each in groups[1:]) and len(groups[-1]) == 3 and set(signs) == {","}
    if thousands or (indian and len(groups) > 2):
        found.add(Decimal("".join(groups)))
    before = set(signs[:-1])
    whole = groups[:-1]
    if signs[-1] in ".," and len(before) <= 1 and signs[-1] not in before:
        grouped = all(len(each) in (2, 3) for each in whole[1:]) and len(whole[0]) <= 3
        if len(whole) == 1 or grouped:
            found.add(Decimal("".join(whole) + "." + groups[-1]))
    return found


@lru_cache(maxsize=50_000)
def dates_of(text: str) -> frozenset[date]:
    """The dates that a whole text may mean: "05.03.2026" is 5 March or 3 May; empty if it is none."""
    if len(text) > MAX_CHARACTERS:
        return frozenset()
    folded = plain(text).replace(",", " ").strip(" .")
    folded = re.sub(r"^(?:mon|tues?|wed|thu|thurs|fri|sat|sun)(?:day|nesday|rsday|urday)?\.? +", "", folded)
    folded = re.sub(r"t\d\d:\d\d.*$", "", folded) if DATE.match(folded) else folded
    match = DATE.fullmatch(folded)
    if match:
        first, second, third = (int(group) for group in match.groups())
        orders: list[tuple[int, int, int]] = []
        if len(match[1]) == 4:
            orders = [(first, second, third)]
        elif len(match[1]) <= 2 and len(match[3]) in (2, 4):
            year = third if len(match[3]) == 4 else 2000 + third
            orders = [(year, second, first), (year, first, second)]
            if len(match[3]) == 2:  # two digits: last century too
                orders += [(year - 100, month, day) for year, month, day in orders]
        return frozenset(filter(None, (_date(*order) for order in orders)))
    return _named_date(folded)


def _named_date(folded: str) -> frozenset[date]:
    match = NAMED_DATE.fullmatch(" ".join(folded.split()))
    month = MONTH_OF.get(match[2]) if match else None
    if match is None or month is None:
        return frozenset()
    if match[1]:  # 5 march 2026
        days, year = match[1], match[3] if match[4] is None else ""
    elif match[4]:  # march 5 2026
        days, year = match[3], match[4]
    else:
        return frozenset()
    if len(year) not in (2, 4):
        return frozenset()
    found = _date(int(year) if len(year) == 4 else 2000 + int(year), month, int(days))
    return frozenset([found] if found else [])


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def agree(one: Any, other: Any) -> bool:
    """Return True if two values say the same: as numbers, as dates, or as texts but for case and white space."""
    if one is None or other is None or isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (dict, list)) or isinstance(other, (dict, list)):
        return bool(one == other)
    first, second = str(one), str(other)
    if plain(first) == plain(second):
        return True
    return bool(numbers_of(first) & numbers_of(second) or dates_of(first) & dates_of(second))
