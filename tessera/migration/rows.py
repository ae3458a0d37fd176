"""The rows of lists, such as an invoice's line items: which row of one record is which row of another.

Rows are paired in their order so that most of their values agree: after one missed row the others are compared as
they should be, not all shifted by one. KIEval (arXiv:2503.05488) scores such groups beside single values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from tessera.documents.spans import INDEX

Value = TypeVar("Value")
Row = Mapping[str, Value]
MAX_PAIRS = 40_000  # of rows; longer lists are paired by their numbers
PAIRED = 0.01  # two rows of which nothing agrees are still one row misread, rather than one lost and one invented


@dataclass
class Shape(Generic[Value]):
    """Leaves by path, divided into those of the record itself and the rows of its lists."""

    single: dict[str, Value] = field(default_factory=dict)
    lists: dict[str, list[dict[str, Value]]] = field(default_factory=dict)


def shaped(leaves: Mapping[str, Value]) -> Shape[Value]:
    """Divide leaves: {"total": 5, "items[0].name": "Tea"} has one single value and one row of "items"."""
    shape: Shape[Value] = Shape()
    rows: dict[str, dict[int, dict[str, Value]]] = {}
    for path, value in leaves.items():
        found = INDEX.search(path)
        if found is None:
            shape.single[path] = value
        else:
            tail = path[found.end() :].removeprefix(".")
            rows.setdefault(path[: found.start()], {}).setdefault(int(found[0][1:-1]), {})[tail] = value
    shape.lists = {name: [by_number[number] for number in sorted(by_number)] for name, by_number in rows.items()}
    return shape


def aligned(
    first: Sequence[Value], second: Sequence[Value], score: Callable[[Value, Value], float]
) -> list[tuple[int | None, int | None]]:
    """Pair the rows of two lists in their order, with the largest sum of scores; None stands for no row."""
    tall, wide = len(first), len(second)
    if tall * wide > MAX_PAIRS:
        count = max(tall, wide)
        return [(n if n < tall else None, n if n < wide else None) for n in range(count)]
    scores = np.array([[score(one, other) + PAIRED for other in second] for one in first]).reshape(tall, wide)
    best = np.zeros((tall + 1, wide + 1))  # of the rows from here to both ends
    for i in range(tall - 1, -1, -1):
        for j in range(wide - 1, -1, -1):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], best[i + 1, j + 1] + scores[i, j])
    pairs: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < tall and j < wide:
        if best[i, j] == best[i + 1, j + 1] + scores[i, j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return [*pairs, *((n, None) for n in range(i, tall)), *((None, n) for n in range(j, wide))]
