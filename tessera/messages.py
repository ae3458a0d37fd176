"""Messages of a conversation: text and images in turns, parsed from OpenAI's chat format.

`parse_message` is the one reader of messages, for the library, the server and samples alike. Tokens,
pixels and HTTP are unknown here.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image as PILImage

from tessera.errors import UsageError, shown

Role = Literal["system", "user", "assistant", "tool"]
ImageSource = str | Path | bytes | PILImage.Image
ROLES = ("system", "developer", "user", "assistant", "tool")
DETAILS = ("auto", "low", "high", "original")
FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name", "prefix", "function_call")
# Reply fields that clients send back and that mean nothing to the model.
SILENT_FIELDS = ("refusal", "annotations", "audio", "reasoning", "reasoning_content")
SILENT_PARTS = ("refusal", "thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text")
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image_url", "input_image")
LOW_DETAIL_SIDE = 512
LEAST_SIDE, MOST_SIDE = 256, 16_384  # pixels that may be asked for along an image's longer edge


@dataclass(frozen=True)
class Image:
    """An image as the user gave it: a path, an http(s) or data URL, encoded bytes, or a PIL image.

    With `low_detail` its long side is scaled to at most 512 pixels, which costs at most a quarter of the tokens;
    `max_side` is any other bound, in pixels. None, or more than the model's own side, is the model's.
    """

    source: ImageSource
    low_detail: bool = False
    max_side: int | None = None

    @property
    def side(self) -> int | None:
        """The pixels that its longer edge may have; None: as many as the model takes."""
        sides = [side for side in (self.max_side, LOW_DETAIL_SIDE if self.low_detail else None) if side is not None]
        return min(sides, default=None)


@dataclass(frozen=True)
class Message:
    """One turn. `content` is text and images in reading order; tool fields follow OpenAI's format."""

    role: Role
    content: tuple[str | Image, ...]
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    place: str | None = field(default=None, compare=False)  # in the request that it came with, as errors name it

    @property
    def images(self) -> list[Image]:
        return [part for part in self.content if isinstance(part, Image)]


def parse_messages(messages: Sequence[Message | Mapping[str, Any]], *, lenient: bool = False) -> list[Message]:
    """Read a conversation in OpenAI's format; raises UsageError that names the field, `messages.0.role`.

    With `lenient`, unknown fields are ignored, as OpenAI's own server does.
    """
    parsed = [parse_message(message, f"messages.{index}", lenient=lenient) for index, message in enumerate(messages)]
    for index, message in enumerate(messages):
        last = index == len(messages) - 1
        if isinstance(message, Mapping) and message.get("prefix") and not (last and parsed[-1].role == "assistant"):
            where = f"messages.{index}.prefix"
            raise UsageError(f"{where} may only be true in a last message of the assistant.", param=where)
    return parsed


def parse_message(message: Message | Mapping[str, Any], place: str | None = None, *, lenient: bool = False) -> Message:
    """Read one message; `place` names it in errors, also in later ones about the conversation."""
    where = place or "message"
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise UsageError(f"{where} must be an object with role and content, not {shown(message)}.", param=where)
    if not lenient:
        _check_fields(message, where)
    role: Any = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UsageError(f"{where}.role must be one of {_listed(ROLES)}, not {shown(role)}.", param=f"{where}.role")
    if message.get("function_call") is not None:
        raise UsageError(
            f"{where}.function_call is not supported; write the call as one of tool_calls.",
            param=f"{where}.function_call",
        )
    content = message.get("content")
    if content is None and role not in ("assistant", "tool") and not lenient:
        raise UsageError(f"{where}.content is missing; give a text, or a list of parts.", param=f"{where}.content")
    for name in ("name", "tool_call_id"):
        if not isinstance(message.get(name), str | None):
            raise UsageError(f"{where}.{name} must be a string, not {shown(message[name])}.", param=f"{where}.{name}")
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, Mapping) for call in calls):
        raise UsageError(f"{where}.tool_calls must be a list of objects.", param=f"{where}.tool_calls")
    return Message(
        "system" if role == "developer" else role,  # type: ignore[arg-type]
        parse_content(content, f"{where}.content"),
        tuple(calls),
        message.get("tool_call_id"),
        message.get("name"),
        place,
    )


def parse_content(content: Any, where: str) -> tuple[str | Image, ...]:
    """Read a message's content: a text, or a list of texts and images; null is nothing."""
    if not content and isinstance(content, str | None):
        return ()
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise UsageError(f"{where} must be a string, null, or a list of parts, not {shown(content)}.", param=where)
    parts = [_parse_part(part, f"{where}.{index}") for index, part in enumerate(content)]
    return tuple(part for part in parts if part is not None)


def check_side(side: int | None) -> None:
    """Raise UsageError for a `max_image_side` out of bounds."""
    if side is not None and not LEAST_SIDE <= side <= MOST_SIDE:
        words = f"it must lie between {LEAST_SIDE} and {MOST_SIDE:,}"
        raise UsageError(f"max_image_side is {side}; {words}.", param="max_image_side")


def scaled(messages: Sequence[Message], side: int | None) -> list[Message]:
    """Return the messages with images of at most `side` pixels along the longer edge; None changes nothing."""
    if side is None:
        return list(messages)
    return [
        replace(message, content=tuple(
            replace(part, max_side=side) if isinstance(part, Image) else part for part in message.content
        ))
        for message in messages
    ]  # fmt: skip


def _check_fields(message: Mapping[str, Any], where: str) -> None:
    for name, value in message.items():
        if name not in FIELDS and name not in SILENT_FIELDS and value is not None:
            near = difflib.get_close_matches(str(name), FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {_listed(FIELDS)}."
            raise UsageError(f"{where}.{str(name)[:64]} is unknown; {hint}", param=f"{where}.{str(name)[:64]}")


def _parse_part(part: Any, where: str) -> str | Image | None:
    if isinstance(part, (str, Image)):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in TEXT_PARTS:
        raise UsageError(f"{where}.text must be a string, not {shown(part.get('text'))}.", param=f"{where}.text")
    if kind in IMAGE_PARTS:
        target = part.get("image_url")
        source = target.get("url") if isinstance(target, Mapping) else target
        detail = target.get("detail") if isinstance(target, Mapping) else part.get("detail")
        if detail is not None and detail not in DETAILS:
            raise UsageError(
                f"{where}.detail must be one of {_listed(DETAILS)}, not {shown(detail)}.",
                param=where,
            )
        return _image(source, f"{where}.image_url", low_detail=detail == "low")
    if kind == "image":
        return _image(part.get("image"), f"{where}.image")
    if kind in SILENT_PARTS:
        return None
    described = f"of type {kind[:40]!r}" if isinstance(kind, str) else "without a type"
    raise UsageError(f"{where} is a part {described}; use text or image_url.", param=where)


def _image(source: Any, where: str, *, low_detail: bool = False) -> Image:
    if not isinstance(source, ImageSource) or (isinstance(source, str) and not source):
        raise UsageError(
            f"{where} must be a URL, or an object with one as `url`; in Python also a path, bytes or an image object.",
            param=where.rpartition(".")[0],
        )
    return Image(source, low_detail=low_detail)


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"


def images_digest(messages: Sequence[Message]) -> bytes:
    """A digest of a conversation's pictures, as they were given; empty without pictures."""
    images = [image.source for message in messages for image in message.images]
    digest = hashlib.blake2b(digest_size=16)
    for source in images:
        if isinstance(source, PILImage.Image):
            digest.update(f"{source.mode}{source.size}".encode())
            source = source.tobytes()
        digest.update(source if isinstance(source, bytes) else str(source).encode(errors="replace"))
    return digest.digest() if images else b""
