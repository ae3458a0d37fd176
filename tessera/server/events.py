"""The events of a streamed reply, in the two shapes of chunks that clients know.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html; of the shapes:
OpenAI's API reference.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.chat import Delta
from tessera.prompt import Tokenizer
from tessera.server.translate import call_object, created_now, finish_reason_of, logprobs_object, text_logprobs

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """One event; JSON text has no line breaks, so it takes one data line."""
    return b"data: " + json_text(data) + b"\n\n"


def json_text(data: Mapping[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate, which a model cannot write but a request may quote, has no UTF-8 form.
    return text.encode(errors="replace")


class Events(ABC):
    """The events of one reply, which may have several choices."""

    @abstractmethod
    def opening(self, index: int) -> bytes:
        """What comes before a choice's first text."""

    @abstractmethod
    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        """One step of a choice, the last with its finish reason; raises EngineDeadError where it is no true end."""

    @abstractmethod
    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        """What comes after the last delta; with the usage, if it is wanted in an event of its own."""

    @abstractmethod
    def failure(self, error: Mapping[str, Any]) -> bytes:
        """In place of all that would still come."""


class ChunkEvents(Events):
    """Chunks that end with [DONE]; with `tokenizer` log-probabilities are told."""

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


class ChatEvents(ChunkEvents):
    kind = "chat.completion.chunk"

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer | None) -> None:
        super().__init__(reply_id, model, tokenizer)
        self._num_calls: Counter[int] = Counter()  # of each choice

    def opening(self, index: int) -> bytes:
        return self._event([_chat_choice(index, {"role": "assistant", "content": ""})], None)

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        events = b""
        if delta.text or delta.logprobs:
            choice = _chat_choice(index, {"content": delta.text})
            if self._tokenizer and delta.logprobs:
                choice["logprobs"] = logprobs_object(delta.logprobs, self._tokenizer)
            events += self._event([choice], None if delta.finish_reason else usage)
        for call in delta.tool_calls:  # each whole, in an event of its own: Mistral's clients join no fragments
            described = {"index": self._num_calls[index]} | call_object(call)
            self._num_calls[index] += 1
            events += self._event([_chat_choice(index, {"tool_calls": [described]})], None)
        if delta.finish_reason:
            reason = finish_reason_of(delta.finish_reason, has_called=self._num_calls[index] > 0)
            choice = _chat_choice(index, {}) | {"finish_reason": reason}
            events += self._event([choice], usage)
        return events


class TextEvents(ChunkEvents):
    kind = "text_completion"

    def opening(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta, usage: Mapping[str, Any] | None) -> bytes:
        logprobs = text_logprobs(delta.logprobs, self._tokenizer) if self._tokenizer and delta.logprobs else None
        reason = finish_reason_of(delta.finish_reason) if delta.finish_reason else None
        choice = {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": reason}
        return self._event([choice], usage)


def _chat_choice(index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's clients require the finish reason in every event, null before the end."""
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None}
