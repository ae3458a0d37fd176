"""How often and how long, since the start, for whoever watches the engine; nothing is decided by it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass
class Distribution:
    """Values sorted into buckets: `counts[i]` are at most `bounds[i]` and above the bound before; the last has none.

    Example: bounds (1, 5) and the values 0.5, 1, 3 and 9 give the counts [2, 1, 1] and the total 13.5.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Distribution:
        return Distribution(self.bounds, list(self.counts), self.total)


@dataclass
class DraftCounts:
    """Drafts that were computed, their tokens, and those of them that the model then chose."""

    drafts: int = 0
    tokens: int = 0
    accepted: int = 0

    def add(self, num_tokens: int) -> None:
        self.drafts += num_tokens > 0
        self.tokens += num_tokens
