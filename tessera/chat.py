"""Replies, and `ChatModel`, the one interface that everything above the engine talks to.

The local engine and the HTTP client both meet it, so evaluation, documents and the server work with either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tessera.errors import TesseraError
from tessera.messages import Message
from tessera.sampling import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class Usage:
    """Token counts of one request; cached and image tokens are part of the prompt's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds a request spent: waiting, until its first token, and from that to its last."""

    queue_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability, and the likeliest alternatives (id, text, logprob).

    A prompt's first token follows nothing: its log-probability is None.
    """

    token_id: int
    token: str
    logprob: float | None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A call that the model makes: nine letters or digits, the tool's name, and a JSON object as it wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Delta:
    """What one step adds to a reply: whole characters only; the last one carries the finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    tool_calls: tuple[ToolCall, ...] = ()  # those that became whole
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of all the prompt's tokens, if asked for
    error: TesseraError | None = None  # why the reply failed, with the finish reason "error"
    stop_string: str | None = None  # the one that ended the reply


@dataclass(frozen=True)
class Completion:
    """A whole reply; `str(completion)` is its text."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    model: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    stop_string: str | None = None  # the one that ended the reply

    def __str__(self) -> str:
        return self.text

    @classmethod
    def from_deltas(cls, deltas: Sequence[Delta], model: str) -> Completion:
        """Join all deltas of one reply; the last must be its end."""
        last = deltas[-1]
        if last.finish_reason is None or last.usage is None or last.timings is None:
            raise ValueError("the last delta of a reply must carry finish reason, usage and timings")
        return cls(
            text="".join(delta.text for delta in deltas),
            finish_reason=last.finish_reason,
            usage=last.usage,
            timings=last.timings,
            model=model,
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
            tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
            prompt_logprobs=tuple(entry for delta in deltas for entry in delta.prompt_logprobs),
            stop_string=last.stop_string,
        )


class ChatModel(Protocol):
    """Anything that answers conversations: the local engine, or a server far away."""

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Completion: ...

    def stream(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[Delta]: ...

    def batch(
        self,
        conversations: Sequence[Sequence[Message | Mapping[str, Any]]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]: ...
