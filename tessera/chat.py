"""Replies, and `ChatModel`, the interface that everything above the engine uses.

The local engine and the HTTP client both implement it, so evaluation and documents work with either.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import repeat
from types import TracebackType
from typing import Any, Literal, Self

from tessera.errors import TesseraError, UsageError
from tessera.messages import Image, ImageSource, Message
from tessera.sampling import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]
Conversation = Sequence[Message | Mapping[str, Any]]
ToolDefinitions = Sequence[Mapping[str, Any]]
ToolChoice = str | Mapping[str, Any]  # none, auto, required (or any), or {"type": "function", "function": {"name": ..}}


@dataclass(frozen=True)
class Tools:
    """The tools of one request, in OpenAI's format; the model sees all and may call the `allowed` ones."""

    definitions: ToolDefinitions = ()
    choice: ToolChoice = "auto"
    parallel: bool = True
    allowed: ToolDefinitions | None = None  # None: all

    @classmethod
    def of(cls, tools: Tools | ToolDefinitions) -> Tools:
        return tools if isinstance(tools, Tools) else cls(tools)


EachTools = Tools | ToolDefinitions | Iterator[Tools]  # the same for all conversations, or an iterator's next for each


@dataclass(frozen=True)
class Usage:
    """Token counts of one request; cached and image tokens are part of the prompt's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds a request spent waiting, until its first token, and from first to last token."""

    queue_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability, and the likeliest alternatives (id, text, logprob).

    The log-probability of a prompt's first token is None.
    """

    token_id: int
    token: str
    logprob: float | None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A tool call by the model: an id of nine letters or digits, the tool's name, and the JSON object as written."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Head:
    """An attention head; what a token shows is read `before` tokens earlier, where the token is being chosen."""

    layer: int
    head: int
    before: int = 0


@dataclass(frozen=True)
class Glance:
    """Where one token looked with one head: the patch with the most weight, in which of the conversation's images."""

    image: int  # from 0, in reading order
    grid: tuple[int, int]  # the image's rows and columns of patches
    row: int
    column: int
    weight: float
    reach: tuple[int, int]  # the first and last column of the patches in this row that have about as much weight


@dataclass(frozen=True)
class Delta:
    """The addition of one step to a reply, in whole characters; the last one carries the finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    tool_calls: tuple[ToolCall, ...] = ()  # those completed by this step
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # for all the prompt's tokens, if requested
    error: TesseraError | None = None  # why the reply failed, with the finish reason "error"
    stop_string: str | None = None  # the one that ended the reply
    reasoning: str = ""  # what the model thought before it answered, where a server tells it apart


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
    reasoning: str = ""  # what the model thought before it answered, where a server tells it apart

    def __str__(self) -> str:
        return self.text

    @classmethod
    def from_deltas(cls, deltas: Sequence[Delta], model: str) -> Completion:
        """Join all deltas of one reply; the last must end it."""
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
            reasoning="".join(delta.reasoning for delta in deltas),
        )


class ChatModel(ABC):
    """Anything that answers conversations: the local engine (`LLM`), or a remote server (`Client`)."""

    model_name: str

    @abstractmethod
    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        """Yield the reply in pieces, tool calls whole. Leaving the iteration early ends the request."""

    @abstractmethod
    def each(
        self,
        conversations: Iterable[Conversation],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        tools: EachTools = (),
    ) -> Iterator[Completion | TesseraError]:
        """Yield one reply, or the error instead of it, for each conversation, in order.

        Conversations are read lazily, as many at once as keep the model busy; there may be any number.
        """

    @abstractmethod
    def close(self) -> None:
        """End all requests; may be called twice."""

    def chat(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Completion:
        """Return the whole reply to a conversation: messages in OpenAI's format, or `Message`s, the user's turn last.

        Without `params` the reply is greedy and as long as the context allows. Raises ReplyError if it fails, and
        GrammarError if its grammar reaches a dead end. For one question, `ask` is shorter.
        """
        return Completion.from_deltas(list(self.stream(messages, params, tools=tools)), self.model_name)

    def locate(
        self,
        messages: Conversation,
        reply: Completion | str,
        spans: Sequence[tuple[int, int]],
        heads: Sequence[Head] = (),
    ) -> list[list[tuple[Glance, ...]]] | None:
        """Return where the images show some parts of a reply: for each span of its characters, each token's glances.

        A glance for each of the heads; without any, for the model's own. None if this model cannot tell.
        """
        return None

    def embed(self, messages: Conversation) -> list[float] | None:
        """Return the hidden state of a conversation's last token, which stands for all of it; None if it has none."""
        return None

    @property
    def fingerprint(self) -> str:
        """What a model is known by where its numbers are kept: of a server's, only its name."""
        return self.model_name

    def ask(self, question: str, *images: ImageSource | Image, params: SamplingParams | None = None) -> Completion:
        """Return the reply to one question about any number of images: paths, URLs, bytes or PIL images.

        Example: `llm.ask("What is Rome?", "chart.png").text`.
        """
        if not isinstance(question, str) or not question.strip():
            raise UsageError(f"the question must be a non-empty string, not {reprlib.repr(question)}.")
        given = [image if isinstance(image, Image) else Image(image) for image in images]
        return self.chat([Message("user", (*given, question))], params)

    def batch(
        self, conversations: Iterable[Conversation], params: SamplingParams | Iterable[SamplingParams] | None = None
    ) -> list[Completion]:
        """Return all replies, in order; raises the first error, with its conversation named."""
        replies: list[Completion] = []
        for index, reply in enumerate(self.each(conversations, params)):
            if isinstance(reply, TesseraError):
                raise type(reply)(f"conversation {index}: {reply}") from reply
            replies.append(reply)
        return replies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def with_params(
    conversations: Iterable[Conversation], params: SamplingParams | Iterable[SamplingParams] | None
) -> Iterator[tuple[Conversation, SamplingParams]]:
    """Pair each conversation with its parameters; raises UsageError if the counts differ."""
    if params is None or isinstance(params, SamplingParams):
        yield from zip(conversations, repeat(params or SamplingParams()))
        return
    if isinstance(conversations, Sized) and isinstance(params, Sized) and len(conversations) != len(params):
        raise UsageError(f"{len(conversations)} conversations came with {len(params)} parameters; give one each.")
    count, given = 0, iter(params)
    for count, messages in enumerate(conversations, 1):
        if (wanted := next(given, None)) is None:
            raise UsageError(f"conversation {count - 1} has no parameters: there are {count - 1}; give one each.")
        yield messages, wanted
    if next(given, None) is not None:
        raise UsageError(f"there are more parameters than the {count} conversations; give one each.")


def asked(
    conversations: Iterable[Conversation],
    params: SamplingParams | Iterable[SamplingParams] | None,
    tools: EachTools,
) -> Iterator[tuple[Conversation, SamplingParams, Tools]]:
    """Give each conversation its parameters and tools; raises UsageError if the counts differ."""
    paired = with_params(conversations, params)
    if not isinstance(tools, Iterator):
        offered = Tools.of(tools)
        yield from ((messages, wanted, offered) for messages, wanted in paired)
        return
    for count, (messages, wanted) in enumerate(paired):
        if (each := next(tools, None)) is None:
            raise UsageError(f"conversation {count} has no tools: there are {count}; give each some, or `Tools()`.")
        yield messages, wanted, each
