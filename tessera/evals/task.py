"""A benchmark as data: what it asks about each row of its data set, and how a reply is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.evals.rows import Row
from tessera.messages import Image, Message
from tessera.sampling import SamplingParams

Shots = Sequence[Row]  # the rows that examples in the prompt are made of


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a row; `groups` are what its score is broken down by, `cluster` what it shares with others."""

    id: str
    messages: tuple[Message, ...]
    params: SamplingParams
    answer: Any
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""  # of questions about one image or document; "": its own
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the scorer needs


@dataclass(frozen=True)
class Verdict:
    """A reply's points under each of the task's scores, and the answer that was read in it; None: none was."""

    scores: Mapping[str, float]
    parsed: str | None
    note: str = ""  # why, where the points do not say it


@dataclass(frozen=True)
class Judge:
    """How another model judges a reply."""

    ask: Callable[[Question, str], Sequence[Message]]
    params: SamplingParams
    score: Callable[[str], Verdict]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark. The first of `scores` is the one to report; each comes with what it means."""

    name: str
    title: str
    split: str
    config: str = ""  # the data set's folder, where its repository has several
    repositories: tuple[str, ...]  # on the hub, the newest home first
    prompt: str  # the fixed words, whose digest tells protocols apart
    protocol: str
    scores: Mapping[str, str]
    questions: Callable[[Row, Shots], Sequence[Question]]
    score: Callable[[Question, str], Verdict] | None = None  # None: judged
    judge: Judge | None = None
    shots_split: str = ""
    paper: float | None = None  # what the paper reports for Pixtral 12B
    is_graded: bool = False  # points between 0 and 1, whose interval needs the bootstrap
    best: float = 1.0  # the points of a perfect reply
    scale: float = 100.0  # what a report multiplies points by
    options: Mapping[str, Any] = field(default_factory=dict)  # what makes the task again; see `tasks.task_of`
    questions_in: Callable[[Row], int] = lambda row: 1

    @property
    def main(self) -> str:
        return next(iter(self.scores))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the prompt and the protocol."""
        return hashlib.sha256(f"{self.protocol}\n{self.prompt}".encode()).hexdigest()


def user(*content: str | Image) -> tuple[Message, ...]:
    """Return a conversation of one user's turn."""
    return (Message("user", tuple(part for part in content if part != "")),)
