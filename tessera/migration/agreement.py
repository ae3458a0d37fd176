"""Whether two values of a field say the same: exactly, in another notation, as numbers or dates, or nearly as texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tessera.documents.readings import agree, numbers_of, plain
from tessera.documents.schemas import Kind
from tessera.errors import UsageError
from tessera.evals.metrics import anls

How = Literal["exact", "normalised", "number", "date", "text", "nothing", "failed", "differ"]
NUMERIC = ("number", "integer", "amount")


@dataclass(frozen=True)
class Rules:
    """How far two values may be apart and still agree."""

    tolerance: float = 0.0  # of numbers, as a share of the larger
    similarity: float = 1.0  # of texts: the least ANLS

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise UsageError(f"tolerance is {self.tolerance}; it must be at least 0 and below 1.", param="tolerance")
        if not 0.5 <= self.similarity <= 1:
            raise UsageError(f"similarity is {self.similarity}; it must lie between 0.5 and 1.", param="similarity")


@dataclass(frozen=True)
class Match:
    """How two values agree, and the ANLS of two texts (else 1 or 0)."""

    how: How
    similarity: float

    @property
    def agrees(self) -> bool:
        return self.how not in ("differ", "failed")


def match(one: Any, other: Any, kind: Kind | None, rules: Rules) -> Match:
    """Compare two values of a leaf of this kind; None, "" and [] all say nothing."""
    if is_nothing(one) or is_nothing(other):
        both = is_nothing(one) and is_nothing(other)
        return Match("nothing" if both else "differ", float(both))
    if type(one) is type(other) and one == other:
        return Match("exact", 1.0)
    if agree(one, other):
        return Match(_notation(str(one), str(other)), 1.0)
    if kind in NUMERIC and _is_near(one, other, rules.tolerance):
        return Match("number", 1.0)
    if kind != "text":
        return Match("differ", 0.0)
    similarity = anls(str(one), [str(other)])
    return Match("text" if similarity >= rules.similarity else "differ", similarity)


def is_nothing(value: Any) -> bool:
    return value is None or value == "" or value == []


def _notation(one: str, other: str) -> How:
    """In what two values that agree are the same."""
    if plain(one) == plain(other):
        return "normalised"
    return "number" if numbers_of(one) & numbers_of(other) else "date"


def _is_near(one: Any, other: Any, tolerance: float) -> bool:
    first, second = _numbers(one), _numbers(other)
    return any(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a in first for b in second)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)]
    return [float(each) for each in numbers_of(str(value))]
