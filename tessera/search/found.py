"""What a search finds: pages, with the lists that have them and the part of the text that is hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

K = 60  # of reciprocal rank fusion


@dataclass(frozen=True)
class Part:
    """A page's place in one list, and what that list says of it."""

    list: str  # "text", "similar", "name" or "vectors"
    rank: int  # from 1
    score: float  # BM25, larger is better, or a cosine
    about: str = ""


@dataclass(frozen=True)
class Hit:
    """A page that was found."""

    page: int  # its id in the index
    file: str
    number: int
    count: int
    score: float
    parts: tuple[Part, ...]
    snippet: tuple[tuple[str, bool], ...]  # pieces of text, and whether each is hit
    source: str
    copies: tuple[str, ...] = ()
    code: str | None = None
    message: str | None = None
    relevance: float | None = None  # the model's probability that the page answers, after `rerank`


@dataclass(frozen=True)
class Found:
    """The answer to a query. `notes` say what was relaxed or cut, in sentences."""

    hits: tuple[Hit, ...]
    total: int  # pages in all lists together, at most `CANDIDATES` of each
    has_more: bool
    notes: tuple[str, ...]
    near: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0


def fused(parts: Sequence[Part]) -> float:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank) over the lists that have the page."""
    return sum(1 / (K + part.rank) for part in parts)
