"""What is extracted from a document: values with their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tessera.chat import Usage
from tessera.documents.page import Box

State = Literal["found", "blank", "missing", "unreadable"]
BoxSource = Literal["text", "text_fuzzy", "attention", "none"]


@dataclass(frozen=True)
class Field:
    """One leaf of a record, with what speaks for it and against it.

    `score` comes from the tokens' probabilities; `confidence` is the calibrated probability that the value is right,
    None without a calibration. `checks` are the sentences of the failed ones. `review` asks for a person's look.
    """

    path: str  # "total", or "items[2].amount"
    value: Any
    raw: str  # as the model wrote it
    state: State
    score: float
    confidence: float | None = None
    box: Box | None = None
    box_source: BoxSource = "none"
    checks: tuple[str, ...] = ()
    review: bool = False
    evidence: tuple[float, ...] = ()  # what calibrations are fitted on; empty without the tokens' probabilities


@dataclass(frozen=True)
class Record:
    """What one document says under a schema, or why it says nothing (`error`: a stable code)."""

    document: str
    pages: tuple[int, ...]
    value: Mapping[str, Any] | None
    fields: Mapping[str, Field] = field(default_factory=dict)
    checks: tuple[str, ...] = ()  # failed checks of the whole record
    notes: tuple[str, ...] = ()  # what is worth knowing and asks for no look
    review: bool = False
    error: str | None = None
    message: str | None = None
    retried: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
