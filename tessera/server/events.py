"""Events of a streamed reply: the interface every format shares, and chunks that end with [DONE].

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.chat import Delta
from tessera.prompt import Tokenizer
from tessera.server.wire import created_now, json_text

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """Format one event; JSON text has no line breaks, so it takes one data line."""
    return b"data: " + json_text(data) + b"\n\n"


class Events(ABC):
    """The events of one reply, which may have several choices."""

    @abstractmethod
    def opening(self, index: int) -> bytes:
        """The events before a choice's first text."""

    @abstractmethod
    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        """One step of a choice, the last with its finish reason; raises EngineDeadError if the reply was cut off."""

    @abstractmethod
    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        """The events after the last delta, with the usage if it is wanted in its own event."""

    @abstractmethod
    def failure(self, error: Mapping[str, Any]) -> bytes:
        """The event that replaces the rest after a failure."""


class ChunkEvents(Events):
    """Chunks that end with [DONE]; log-probabilities are included if `tokenizer` is given."""

    kind: str

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer | None) -> None:
        self._head = {"id": reply_id, "object": self.kind, "created": created_now(), "model": model}
        self._tokenizer = tokenizer

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        return DONE if usage is None else self._event([], usage) + DONE

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return event(error)

    def _event(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any] | None) -> bytes:
        data = self._head | {"choices": list(choices)}
        return event(data if usage is None else data | {"usage": usage})
