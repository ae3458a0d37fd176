"""Checks of a record: sums, dates, the check digits of IBANs and VAT numbers, ranges and counts.

A preset or schema names them in short: "sum(items[].amount) = net", "net + tax = gross", "date <= due", "iban(iban)",
"vat(vendor_tax_id)", "0 <= total", "count(items) = item_count". A check is skipped when a value that it needs is
missing, and never changes a value. Each failed one is a sentence and the paths it blames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from tessera.documents import vat
from tessera.documents.schemas import Schema, paths_in
from tessera.errors import UsageError, shown

TOLERANCE = 0.011  # a rounded cent, and the error of binary fractions
PATH = r"[A-Za-z_]\w*(?:\[\])?(?:\.\w+(?:\[\])?)*"
TERM = re.compile(rf"\s*([-+])?\s*(?:(sum|count)\(({PATH})\)|(\d+(?:\.\d+)?)|({PATH}))\s*(?:\*\s*({PATH})\s*)?")
RELATION = re.compile(r"<=|>=|=|<|>")
CALL = re.compile(rf"(iban|vat)\(({PATH})\)")
TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
}


@dataclass(frozen=True)
class Failure:
    """A failed check: what is wrong, and the paths of the fields that it blames."""

    text: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """A check that had all its values: the paths that it is about, and what is wrong if it does not hold."""

    check: str
    paths: tuple[str, ...]
    failure: str | None = None


class _Missing(Exception):
    """A value that a check needs is null."""


def run_checks(checks: Sequence[str], value: Mapping[str, Any], schema: Schema) -> list[Failure]:
    """Return the failed checks of a record, those of the schema's own ranges among them."""
    run = outcomes(checks, value, schema)
    return [Failure(outcome.failure, outcome.paths) for outcome in run if outcome.failure is not None]


def outcomes(checks: Sequence[str], value: Mapping[str, Any], schema: Schema) -> list[Outcome]:
    """Return the checks of a record that could be run, with those of the schema's own ranges."""
    leaves = dict(paths_in(value))
    return [*(outcome for check in checks for outcome in _run(check, leaves)), *_ranges(leaves, schema)]


def parse_check(check: str, schema: Schema) -> None:
    """Raise UsageError if a check cannot be read or names what the schema lacks."""
    for path in _paths(check):
        known = {leaf.path for leaf in schema.leaves}
        if path not in known and path not in schema.lists and not any(each.startswith(f"{path}[]") for each in known):
            raise UsageError(f"the check {shown(check)} names {path}, which the schema {schema.name} lacks.")


def _paths(check: str) -> list[str]:
    if found := CALL.fullmatch(check.strip()):
        return [found[2]]
    return [path for side in _sides(check)[::2] for _, _, path, _, plain, factor in _terms(side, check)
            for path in (path or plain, factor) if path]  # fmt: skip


def _sides(check: str) -> list[str]:
    """Split a comparison: ["net + tax", "=", "gross"]."""
    parts = re.split(r"(<=|>=|=|<|>)", check)
    if len(parts) != 3:
        raise UsageError(
            f"the check {shown(check)} is not understood; write for example "
            '"sum(items[].amount) = net", "date <= due", "iban(iban)" or "vat(tax_id)".'
        )
    return parts


def _terms(side: str, check: str) -> Iterator[tuple[str | Any, ...]]:
    at = 0
    while at < len(side):
        found = TERM.match(side, at)
        if found is None or (at and found[1] is None):
            raise UsageError(f"the check {shown(check)} is not understood at {shown(side[at:])}.")
        yield found.groups()
        at = found.end()


def _run(check: str, leaves: Mapping[str, Any]) -> Iterator[Outcome]:
    if found := CALL.fullmatch(check.strip()):
        judge = is_iban if found[1] == "iban" else vat.is_valid
        for path, value in _matching(leaves, found[2]):
            if isinstance(value, str) and value and (is_right := judge(value)) is not None:
                wrong = f"{path}: the check digits of {value[:40]!r} are wrong"
                yield Outcome(check, (path,), None if is_right else wrong)
        return
    # Outside of sum() and count(), a list's path means each of its rows in turn.
    rowed = [path for path in _paths(re.sub(rf"(sum|count)\({PATH}\)", "0", check)) if "[]" in path]
    if not rowed:
        yield from _compared(check, leaves, ())
        return
    deepest = max(rowed, key=lambda path: path.count("[]"))
    for path, _ in _matching(leaves, deepest):
        yield from _compared(check, leaves, tuple(re.findall(r"\[(\d+)\]", path)))


def _compared(check: str, leaves: Mapping[str, Any], row: tuple[str, ...]) -> Iterator[Outcome]:
    """Compare the sides of a check, in one row of the lists outside of sums."""
    left, relation, right = _sides(check)
    try:
        one, other = (_side(side, check, leaves, row) for side in (left, right))
    except _Missing:
        return
    if isinstance(one, str) != isinstance(other, str):
        return  # a value that could not be given its type is flagged already
    if relation == "=" and not isinstance(one, str):
        holds = abs(one - other) <= TOLERANCE * max(1, _rounded_parts(leaves, check))
    else:
        holds = one == other if relation == "=" else TESTS[relation](one, other)
    where = f" in row {', '.join(str(int(number) + 1) for number in row)}" if row else ""
    text = f"{check.strip()} does not hold{where}: {_shown(one)} and {_shown(other)}"
    yield Outcome(check, _blamed(check, leaves, row), None if holds else text)


def _side(side: str, check: str, leaves: Mapping[str, Any], row: tuple[str, ...]) -> Any:
    values = [_term(term, leaves, row) for term in _terms(side, check)]
    if any(isinstance(value, str) for value in values):
        if len(values) > 1:
            raise _Missing
        return values[0]
    return sum(values)


def _term(term: tuple[str | Any, ...], leaves: Mapping[str, Any], row: tuple[str, ...]) -> Any:
    sign, function, path, number, plain, factor = term
    if function == "count":
        return len({found[0] for each in leaves if (found := re.match(rf"{re.escape(path)}\[\d+\]", each))})
    if function == "sum":
        found_values = [value for _, value in _matching(leaves, path)]
        if not found_values or not all(isinstance(value, int | float) for value in found_values):
            raise _Missing
        value: Any = sum(found_values)
    else:
        value = float(number) if number else leaves.get(_in_row(plain, row))
    if value is None:
        raise _Missing
    if factor:
        other = leaves.get(_in_row(factor, row))
        if not isinstance(other, int | float) or isinstance(value, str):
            raise _Missing
        value *= other
    return -value if sign == "-" and not isinstance(value, str) else value


def _in_row(path: str, row: tuple[str, ...]) -> str:
    for number in row:
        path = path.replace("[]", f"[{number}]", 1)
    return path


def _matching(leaves: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    pattern = re.compile(re.escape(path).replace(r"\[\]", r"\[\d+\]"))
    return [(each, value) for each, value in leaves.items() if pattern.fullmatch(each)]


def _rounded_parts(leaves: Mapping[str, Any], check: str) -> int:
    """How many separately rounded amounts a check adds up, up to 5: their cents may differ by so much."""
    return min(5, sum(len(_matching(leaves, path)) for path in _paths(check)) // 4)


def _blamed(check: str, leaves: Mapping[str, Any], row: tuple[str, ...]) -> tuple[str, ...]:
    summed = {path for _, path in re.findall(rf"(sum|count)\(({PATH})\)", check)}
    return tuple(
        path for each in _paths(check) for path, _ in _matching(leaves, each if each in summed else _in_row(each, row))
    )


def _ranges(leaves: Mapping[str, Any], schema: Schema) -> Iterator[Outcome]:
    for path, value in leaves.items():
        leaf = schema.leaf(path)
        if leaf is None or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if leaf.minimum is not None:
            below = f"{path} is {_shown(value)}, below {_shown(leaf.minimum)}"
            yield Outcome(f"least {leaf.path}", (path,), below if value < leaf.minimum else None)
        if leaf.maximum is not None:
            above = f"{path} is {_shown(value)}, above {_shown(leaf.maximum)}"
            yield Outcome(f"most {leaf.path}", (path,), above if value > leaf.maximum else None)


def _shown(value: Any) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)[:60]


def is_iban(text: str) -> bool:
    """Return whether an IBAN's check digits are right (ISO 13616: the number rearranged is 1 modulo 97)."""
    compact = re.sub(r"[\s.-]", "", text).upper()
    compact = compact.removeprefix("IBAN").lstrip(":")
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", compact):
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


def is_date(text: str) -> bool:
    """Return whether a text is a real date in ISO form."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
