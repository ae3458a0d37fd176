"""Counts and durations since the start, for monitoring the engine; no decision depends on them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace

from tessera.chat import FinishReason, Usage
from tessera.engine.blocks import BlockCounts

INTERVALS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


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
    """Numbers of drafts computed, of their tokens, and of those that the model then chose."""

    drafts: int = 0
    tokens: int = 0
    accepted: int = 0

    def add(self, num_tokens: int) -> None:
        self.drafts += num_tokens > 0
        self.tokens += num_tokens


@dataclass(frozen=True)
class Stats:
    """The engine's state now, and its counts since the start."""

    waiting: int
    running: int
    blocks: BlockCounts
    image_cache_bytes: int
    image_queries: int  # images that started requests needed, beyond those in cached blocks
    image_hits: int  # of those, how many were already encoded
    preemptions: int
    steps: int
    token_intervals: Distribution  # seconds between two tokens of a request
    drafts: DraftCounts
    finished: dict[str, int]  # requests by finish reason
    prompt_tokens: int  # of finished requests, as the three below
    cached_tokens: int
    image_tokens: int
    completion_tokens: int


@dataclass
class Tally:
    """The engine's running counts."""

    steps: int = 0
    token_intervals: Distribution = field(default_factory=lambda: Distribution(INTERVALS_S))
    drafts: DraftCounts = field(default_factory=DraftCounts)
    finished: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)  # of finished requests, by the field of Usage

    def finish(self, reason: FinishReason, usage: Usage) -> None:
        self.finished[reason] += 1
        for name in ("prompt_tokens", "cached_tokens", "image_tokens", "completion_tokens"):
            self.tokens[name] += getattr(usage, name)

    def stats(
        self, *, waiting: int, running: int, preemptions: int, blocks: BlockCounts, images: tuple[int, int, int]
    ) -> Stats:
        """Return a copy of the counts with the engine's state; `images` are cached bytes, queries and hits."""
        cached_bytes, queries, hits = images
        return Stats(
            waiting=waiting,
            running=running,
            blocks=blocks,
            image_cache_bytes=cached_bytes,
            image_queries=queries,
            image_hits=hits,
            preemptions=preemptions,
            steps=self.steps,
            token_intervals=self.token_intervals.copy(),
            drafts=replace(self.drafts),
            finished=dict(self.finished),
            prompt_tokens=self.tokens["prompt_tokens"],
            cached_tokens=self.tokens["cached_tokens"],
            image_tokens=self.tokens["image_tokens"],
            completion_tokens=self.tokens["completion_tokens"],
        )
