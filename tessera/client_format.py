"""Conversion between our conversations, parameters and replies and OpenAI's chat format.

This is the client's side; the server's is in `server/`. Source of the
shapes: OpenAI's API reference, and what vLLM adds to it.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from PIL import Image as PILImage

from tessera import errors
from tessera.chat import Delta, FinishReason, Timings, TokenLogprob, ToolCall, Tools, Usage
from tessera.errors import CheckpointError, EndpointError, TesseraError, UsageError
from tessera.messages import Image, Message
from tessera.model.config import VisionConfig, read_vision
from tessera.sampling import Grammar, SamplingParams
from tessera.sources import ImageLimits, is_data_url, is_url, read

NOT_OPENAI = "the server did not send what OpenAI's API has; check what it is."
NO_ID = -1  # for a token whose id the server does not send
CONTEXT_NAMES = ("max_model_len", "max_context_length", "context_length")  # vLLM's, Mistral's, OpenRouter's
MAX_CONTEXT = 2**31  # tokens; what is more is no length of a context
# The first bytes of each file type.
TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"), (b"MM\x00*", "image/tiff"), (b"RIFF", "image/webp"),
)  # fmt: skip
AT_BOX = {b"ftypavif": "image/avif", b"ftypheic": "image/heic", b"ftypmif1": "image/heif"}


def message_object(message: Message, limits: ImageLimits) -> dict[str, Any]:
    """Convert a message to JSON; files, bytes and PIL images become data URLs. Raises ImageError."""
    parts = [_part(part, limits) for part in message.content]
    texts = all(isinstance(part, str) for part in message.content)
    content: Any = "".join(map(str, message.content)) if texts and len(parts) < 2 else parts
    made: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        made["tool_calls"] = [{"type": "function", **call} for call in message.tool_calls]
        made["content"] = content or None
    return made | {name: value for name in ("tool_call_id", "name") if (value := getattr(message, name)) is not None}


def _part(part: str | Image, limits: ImageLimits) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.max_side is not None:
        raise UsageError(
            f"max_side is {part.max_side}, and no part of a message says so to a server; scale the image before it is "
            "sent, or set the server's max_image_side."
        )
    target = {"url": image_url(part, limits)} | ({"detail": "low"} if part.low_detail else {})
    return {"type": "image_url", "image_url": target}


def image_url(image: Image, limits: ImageLimits) -> str:
    """Return an image's own URL, or a data URL."""
    source = image.source
    if isinstance(source, str) and (is_url(source) or is_data_url(source)):
        return source
    if isinstance(source, PILImage.Image):
        file = io.BytesIO()
        source.save(file, "PNG")
        source = file.getvalue()
    _, data = read(source, limits)
    return f"data:{_type_of(data)};base64,{base64.b64encode(data).decode()}"


def _type_of(data: bytes) -> str:
    found = AT_BOX.get(data[4:12]) or next((kind for start, kind in TYPES if data.startswith(start)), None)
    return found or "application/octet-stream"


def params_object(params: SamplingParams) -> dict[str, Any]:
    """Return the fields that differ from the defaults; raises UsageError for those a chat request cannot express."""
    if params.prompt_logprobs is not None:
        raise UsageError("prompt_logprobs is not available from a server's chat route; leave it out.")
    default = SamplingParams()
    made: dict[str, Any] = {}
    for name in (field.name for field in fields(SamplingParams)):
        value = getattr(params, name)
        if value != getattr(default, name):
            made[name] = list(value) if isinstance(value, tuple) else value
    if params.logit_bias:
        made["logit_bias"] = {str(token_id): bias for token_id, bias in dict(params.logit_bias).items()}
    if (count := made.pop("logprobs", None)) is not None:
        made |= {"logprobs": True, "top_logprobs": count}
    if params.adapter is not None:
        made["model"] = made.pop("adapter")  # a server has adapters as models
    if params.grammar is not None:
        made.pop("grammar")
        made |= grammar_object(params.grammar)
    return made


def grammar_object(grammar: Grammar) -> dict[str, Any]:
    """Return the field for a grammar: OpenAI's `response_format`, or vLLM's `structured_outputs`."""
    if grammar.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if grammar.kind == "json_schema":
        schema = {"name": "reply", "schema": json.loads(grammar.source), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if grammar.kind == "choice":
        return {"structured_outputs": {"choice": json.loads(grammar.source)}}
    if grammar.kind == "regex":
        return {"structured_outputs": {"regex": grammar.source}}
    if grammar.kind == "lark":
        return {"structured_outputs": {"grammar": grammar.source}}
    raise UsageError(f"a {grammar.kind} grammar cannot be sent to a server; give the tools instead.")


def tools_object(tools: Tools) -> dict[str, Any]:
    """Return the fields that offer tools; none without tools."""
    if not tools.definitions:
        return {}
    choice: Any = tools.choice
    if tools.allowed is not None:
        named = [{"type": "function", "function": {"name": tool["function"]["name"]}} for tool in tools.allowed]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": tools.choice, "tools": named}}
    made = {"tools": list(tools.definitions), "tool_choice": choice}
    return made if tools.parallel else made | {"parallel_tool_calls": False}


def vision_of(listed: Mapping[str, Any]) -> VisionConfig | None:
    """How a model cuts images, from its entry in a server's list; None where it does not say so."""
    told = listed.get("vision_encoder")
    if not isinstance(told, Mapping):
        return None
    known = {field.name for field in fields(VisionConfig)}
    try:
        return read_vision({name: value for name, value in told.items() if name in known}, "the list of models")
    except CheckpointError:
        return None  # another program's words for something else


def context_of(listed: Mapping[str, Any]) -> int | None:
    """The tokens of prompt and reply that a model takes, from its entry in a server's list; None if it does not say."""
    told = (listed.get(name) for name in CONTEXT_NAMES)
    return next((n for n in told if isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MAX_CONTEXT), None)


def usage_of(usage: Mapping[str, Any] | None) -> Usage:
    told = usage or {}
    details = told.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(told.get("prompt_tokens") or 0),
        completion_tokens=int(told.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        image_tokens=int(details.get("image_tokens") or 0),
    )


def logprobs_of(logprobs: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Read the tokens' log-probabilities; the wire has only their texts, so their ids are NO_ID."""
    return tuple(
        TokenLogprob(
            NO_ID,
            str(entry["token"]),
            None if entry["logprob"] is None else float(entry["logprob"]),
            tuple((NO_ID, other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()),
        )
        for entry in (logprobs or {}).get("content") or ()
    )


def finish_reason_of(reason: str) -> FinishReason:
    """Read the finish reason: "length" for a cut reply; "tool_calls" and all others mean "stop"."""
    return "length" if reason == "length" else "stop"


class CallParts:
    """Joins the pieces of streamed tool calls."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, pieces: Sequence[Mapping[str, Any]]) -> None:
        for place, piece in enumerate(pieces):
            call = self._calls.setdefault(piece.get("index", place), {"id": "", "name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["id"] = piece.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""

    def take(self) -> tuple[ToolCall, ...]:
        """Return all calls, now complete."""
        calls, self._calls = self._calls, {}
        return tuple(ToolCall(**call) for _, call in sorted(calls.items()))


class ReplyReader:
    """Turns one reply's events into deltas."""

    def __init__(self, began: float, url: str) -> None:
        self.began, self.url = began, url
        self.first: float | None = None
        self.calls = CallParts()

    def read(self, events: Iterator[Any]) -> Iterator[Delta]:
        """Yield deltas, the last with reason, usage and timings; raises for a failure or an end without a reason."""
        try:
            yield from self._deltas(events)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # a part of another type
            raise EndpointError(NOT_OPENAI) from error

    def _deltas(self, events: Iterator[Any]) -> Iterator[Delta]:
        reason: str | None = None
        usage: Mapping[str, Any] | None = None
        for event in events:
            if not isinstance(event, Mapping):
                raise EndpointError(f"{self.url} did not send JSON objects; check that it speaks OpenAI's API.")
            if event.get("error") is not None:
                raise error_of(500, event, self.url)
            usage = event.get("usage") or usage
            for choice in _objects(event.get("choices")):
                reason = choice.get("finish_reason") or reason
                piece = choice.get("delta") or choice.get("message") or {}
                self.calls.add(_objects(piece.get("tool_calls")))
                text, logprobs = piece.get("content") or "", logprobs_of(choice.get("logprobs"))
                thought = piece.get("reasoning_content") or piece.get("reasoning") or ""
                if not isinstance(text, str) or not isinstance(thought, str):
                    raise EndpointError(NOT_OPENAI)
                if text or logprobs or thought:
                    self.first = self.first or time.perf_counter()
                    yield Delta(text, logprobs=logprobs, reasoning=thought)
        if reason is None:
            raise EndpointError(f"the reply of {self.url} broke off; ask again.")
        now = time.perf_counter()
        first = self.first or now
        yield Delta(
            "",
            finish_reason=finish_reason_of(reason),
            usage=usage_of(usage),
            timings=Timings(0.0, first - self.began, now - first),
            tool_calls=self.calls.take(),
        )


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Check a list of objects, which may be absent; raises EndpointError for anything else."""
    listed = value or []
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise EndpointError(NOT_OPENAI)
    return listed


def error_of(status: int, body: Any, url: str) -> TesseraError:
    """Convert a server's error response, to our own class if its code or status names one."""
    told = body.get("error") if isinstance(body, Mapping) else None
    error = told if isinstance(told, Mapping) else {}
    text = str(error.get("message") or (told if isinstance(told, str) else "") or f"{url} answered {status}.")
    code, param = error.get("code"), error.get("param")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, TesseraError) and kind.code and kind.code == code:
            return kind(text)
    if status == 401:
        return errors.KeyRefusedError(f"{text.rstrip('.')} ({url} answered {status}); give another key.")
    if status == 404:
        return errors.ModelNotFoundError(text)
    if status in (400, 413, 422):
        return UsageError(text, param=param if isinstance(param, str) else None)
    if status == 429:
        return errors.EngineBusyError(text)
    return EndpointError(text)
