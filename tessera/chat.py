"""What a conversation is made of, and the one interface that everything above the engine talks to.

Messages have the shape of OpenAI's chat format (dicts are parsed here, strictly); tokens, pixels
and devices are unknown here. `ChatModel` is met by the local engine and by the HTTP client, so
evaluation, documents and the server work with either.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from PIL import Image as PILImage

from tessera.errors import TesseraError, UsageError

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "abort", "error"]
GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "tool_calls"]
ROLES = ("system", "user", "assistant", "tool")
GRAMMAR_KINDS = get_args(GrammarKind)
DETAILS = (None, "auto", "low", "high", "original")


@dataclass(frozen=True)
class Image:
    """A picture as the user gave it: a path, an http(s) or data URL, encoded bytes, or a PIL image.

    With `low_detail` its long side is scaled to at most 512 pixels, which costs at most a quarter of the tokens.
    """

    source: str | Path | bytes | PILImage.Image
    low_detail: bool = False


@dataclass(frozen=True)
class Message:
    """One turn. `content` is text and images in reading order; tool fields follow OpenAI's format."""

    role: Role
    content: tuple[str | Image, ...]
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    place: str | None = field(default=None, compare=False)  # in the request that it came with, as errors name it

    @classmethod
    def parse(cls, message: Message | Mapping[str, Any]) -> Message:
        """Read an OpenAI-style dict; raises UsageError that names the field."""
        if isinstance(message, Message):
            return message
        if not isinstance(message, Mapping):
            raise UsageError(f"a message must be an object with role and content, not {_show(message)}.")
        known = {"role", "content", "tool_calls", "tool_call_id", "name"}
        if unknown := sorted(set(message) - known):
            raise UsageError(f"message field {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}.")
        role: Any = "system" if message.get("role") == "developer" else message.get("role")
        if role not in ROLES:
            raise UsageError(f"role {_show(message.get('role'))} is unknown; use one of {', '.join(ROLES)}.")
        if message.get("content") is None and role in ("system", "user"):
            raise UsageError(f"the {role} message has no content; give a text, or a list of texts and pictures.")
        return cls(
            role,
            _parse_content(message.get("content")),
            tuple(message.get("tool_calls") or ()),
            message.get("tool_call_id"),
            message.get("name"),
        )

    @property
    def images(self) -> list[Image]:
        return [part for part in self.content if isinstance(part, Image)]


@dataclass(frozen=True)
class Grammar:
    """What a reply must look like. `source` is, by kind: nothing, for json_object (any JSON object); the JSON
    text of a schema; a regular expression; a JSON list of strings, one of which is the reply; a Lark grammar in
    llguidance's dialect, or GBNF. The kind tool_calls is Lark that may name special tokens; `tessera.tools` writes it.
    """

    kind: GrammarKind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in GRAMMAR_KINDS:
            raise UsageError(f"grammar kind {_show(self.kind)} is unknown; use one of {', '.join(GRAMMAR_KINDS)}.")
        if not isinstance(self.source, str):
            raise UsageError(f"a grammar's source must be a string, not {_show(self.source)}.")
        if bool(self.source) == (self.kind == "json_object"):
            wanted = "takes no source; leave it out" if self.source else "needs a source; give one"
            raise UsageError(f"grammar kind {self.kind} {wanted}.")


class _NamedFields(type):
    """Of classes whose values are given by name: a name that is not known is answered with the nearest one."""

    def __call__(cls, *values: Any, **named: Any) -> Any:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if values:
            raise UsageError(
                f"{cls.__name__} takes values by their names, such as {known[0]}=..., not {_show(values[0])}."
            )
        for name in named:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"the nearest known one is {near[0]!r}" if near else f"known are {', '.join(known)}"
                raise UsageError(f"sampling parameter {name!r} is unknown; {hint}.")
        return super().__call__(**named)


@dataclass(frozen=True, kw_only=True)
class SamplingParams(metaclass=_NamedFields):
    """How one reply is drawn; every field is checked, and the defaults give the greedy reply."""

    max_tokens: int | None = None  # None: as many as the context holds
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; n: the chosen token's and the n likeliest
    prompt_logprobs: int | None = None  # the same of the prompt's own tokens, which come with the first delta
    # Added to these ids' logits; a mapping is kept as a tuple of pairs.
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    # The reply follows it and ends where it ends. A stop string still cuts the reply, as max_tokens does.
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UsageError(f"{name} must be a finite number, not {_show(value)}.")
            if name in _WHOLE and not isinstance(value, int):
                raise UsageError(f"{name} must be a whole number, not {_show(value)}.")
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")
        stops = self.stop if isinstance(self.stop, Sequence) and not isinstance(self.stop, (str, bytes)) else (None,)
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise UsageError(f"stop must be a tuple of non-empty strings, not {_show(self.stop)}.")
        ids = self.stop_token_ids if isinstance(self.stop_token_ids, (Sequence, Set)) else (None,)
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            raise UsageError(f"stop_token_ids must be a tuple of token ids, not {_show(self.stop_token_ids)}.")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise UsageError(f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.")
        object.__setattr__(self, "logit_bias", _parse_logit_bias(self.logit_bias))
        if self.grammar is None:
            return
        if not isinstance(self.grammar, Grammar):
            raise UsageError(f"grammar must be a Grammar, not {_show(self.grammar)}.")
        for name in ("min_tokens", "ignore_eos"):
            if getattr(self, name):
                raise UsageError(f"{name} cannot be combined with a grammar or tools, which say where a reply ends.")


MAX_STOP_STRINGS = 16
MAX_BIASED_IDS = 300
MAX_BIAS = 100.0
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, 2**20),
    ("min_tokens", 0, 2**20),
    ("temperature", 0.0, 10.0),
    ("top_p", 1e-6, 1.0),
    ("top_k", 0, 2**20),
    ("min_p", 0.0, 1.0),
    ("frequency_penalty", -2.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
    ("repetition_penalty", 0.01, 100.0),
    ("seed", -(2**63), 2**63 - 1),
    ("logprobs", 0, 20),
    ("prompt_logprobs", 0, 20),
)
_WHOLE = {"max_tokens", "min_tokens", "top_k", "seed", "logprobs", "prompt_logprobs"}


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


def sampling_params_from_dict(values: Mapping[str, Any]) -> SamplingParams:
    """Build the parameters from names and values; an unknown name is an error that tells the nearest."""
    return SamplingParams(**values)


def _parse_logit_bias(given: Any) -> tuple[tuple[int, float], ...]:
    """Pairs of id and bias; raises UsageError that names the pair."""
    if isinstance(given, (str, bytes)) or not isinstance(given, (Mapping, Sequence)):
        raise UsageError(f"logit_bias must map token ids to numbers, not {_show(given)}.")
    if len(given) > MAX_BIASED_IDS:
        raise UsageError(f"logit_bias has {len(given)} entries; at most {MAX_BIASED_IDS} are allowed.")
    pairs: dict[int, float] = {}
    for pair in given.items() if isinstance(given, Mapping) else given:
        if not isinstance(pair, Sequence) or len(pair) != 2 or type(pair[0]) is not int:
            raise UsageError(f"a logit_bias entry must be a token id and a number, not {_show(pair)}.")
        token_id, bias = pair
        if type(bias) not in (int, float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise UsageError(
                f"the logit_bias of token {_show(token_id)} is {_show(bias)}; it must be a number between "
                f"{-MAX_BIAS:g} and {MAX_BIAS:g}."
            )
        if token_id in pairs:
            raise UsageError(f"logit_bias names token {token_id} twice; give it one bias.")
        pairs[token_id] = bias
    return tuple(pairs.items())


def _parse_content(content: Any) -> tuple[str | Image, ...]:
    if not content and isinstance(content, str | None):
        return ()
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise UsageError(f"message content must be a string or a list of parts, not {_show(content)}.")
    return tuple(_parse_part(part) for part in content)


def _parse_part(part: Any) -> str | Image:
    if isinstance(part, (str, Image)):
        return part
    if not isinstance(part, Mapping):
        raise UsageError(f"a content part must be an object with a type, not {_show(part)}.")
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image_url":
        target = part.get("image_url")
        source = target.get("url") if isinstance(target, Mapping) else target
        detail = target.get("detail") if isinstance(target, Mapping) else None
        if detail not in DETAILS:
            raise UsageError(f"image detail {_show(detail)} is unknown; use one of {', '.join(DETAILS[1:])}.")
        if isinstance(source, (str, Path, bytes, PILImage.Image)):
            return Image(source, low_detail=detail == "low")
    if kind == "image" and isinstance(part.get("image"), (str, Path, bytes, PILImage.Image)):
        return Image(part["image"])
    raise UsageError(
        f"content part {_show(part)} is not understood; use {{'type': 'text', 'text': ...}} or "
        "{'type': 'image_url', 'image_url': path, URL, bytes or PIL image}."
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
