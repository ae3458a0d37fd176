"""Data files of conversations, in the shapes that other trainers read, as one form: messages with images by path.

Every row is checked before anything starts; a bad one becomes a Problem with its line and the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.conversation import arguments_of
from tessera.errors import ImageError, TesseraError, UsageError, shown
from tessera.evals.rows import Row, Rows
from tessera.machine import written_whole
from tessera.messages import Image, Message, parse_message
from tessera.samples import MARKER
from tessera.sources import ImageLimits, is_data_url, is_url, read

MAX_ROWS, MAX_MESSAGES = 1_000_000, 1000
CONVERSATIONS = ("messages", "interactions")  # the latter is Mistral's name
SHAPES = "messages; prompt and completion; or question and answer"


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, and the numbers of those of the assistant that are trained."""

    place: str  # file and line
    source: str  # the data set's name, by which losses are told apart
    messages: tuple[Message, ...]
    taught: frozenset[int]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used; `code` says why, for programs."""

    place: str
    code: str
    text: str


class Reader:
    """Reads rows into conversations; images given as bytes are written to the folder `keep`, one file each."""

    def __init__(self, keep: Path, *, allow_urls: bool = False) -> None:
        self.keep, self.allow_urls = keep, allow_urls

    def read(self, path: Path) -> Iterator[Conversation | Problem]:
        """Yield every row of a file in order."""
        if not path.is_file():
            raise UsageError(f"{path} is not a file; name a .jsonl, .parquet or .csv file of conversations.")
        rows = Rows([path])
        if not 0 < len(rows) <= MAX_ROWS:
            raise UsageError(f"{path} has {len(rows):,} rows; between 1 and {MAX_ROWS:,} can be trained on.")
        for index in range(len(rows)):
            try:
                yield self._conversation(rows[index])
            except TesseraError as error:
                place = rows.place(index)
                text = str(error).removeprefix(f"{place}: ").removeprefix(f"{place} ")
                yield Problem(place, getattr(error, "code", "") or "invalid_row", text)

    def _conversation(self, row: Row) -> Conversation:
        given = _messages_of(row)
        if len(given) > MAX_MESSAGES:
            raise UsageError(f"the row has {len(given):,} messages, and the limit is {MAX_MESSAGES:,}; divide it.")
        column = self._column(row)
        if column and not any(_markers(message) for message in given):
            given = _images_first(given, len(column))
        images = iter(column)
        messages, taught = [], set()
        for number, message in enumerate(given):
            filled, weight = self._filled(message, images, row, f"messages.{number}")
            messages.append(filled)
            if filled.role == "assistant" and weight:
                taught.add(number)
                _check_taught(messages, number)
        if (left := len(list(images))) > 0:
            raise UsageError(f"{left} of its {len(column)} images have no {MARKER} or image part; mark their places.")
        if not taught:
            raise UsageError("no message of the assistant is trained; give one, with weight 1 or without weights.")
        source = row.get("source")
        return Conversation(
            row.place,
            source if isinstance(source, str) else row.file.stem,
            tuple(messages),
            frozenset(taught),
            _tools(row),
        )

    def _column(self, row: Row) -> list[Image]:
        value = row.get("images", row.get("image"))
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [self._by_path(row.image_of(each, "images"), row) for each in values]

    def _filled(
        self, message: Mapping[str, Any], images: Iterator[Image], row: Row, where: str
    ) -> tuple[Message, bool]:
        """Return the message with its images in place, and if it is trained."""
        rest = dict(message)
        weight = _weight(rest, where)
        if "content" not in rest and "text" in rest:
            rest["content"] = rest.pop("text")
        content = rest.get("content")
        column = row.get("images", row.get("image")) is not None
        parts = [content] if isinstance(content, str) else content
        if isinstance(parts, list):
            rest["content"] = [filled for part in parts for filled in self._parts(part, images, column, where)]
        parsed = parse_message(rest, where)
        held = tuple(self._by_path(part, row) if isinstance(part, Image) else part for part in parsed.content)
        return Message(parsed.role, held, parsed.tool_calls, parsed.tool_call_id, parsed.name, where), weight

    def _parts(self, part: Any, images: Iterator[Image], column: bool, where: str) -> Iterator[Any]:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part.get("type") == "image":
            own = part.get("image") or part.get("path") or part.get("url")
            yield {"type": "image", "image": own} if own else _next(images, where)
        elif isinstance(text, str) and column:
            for number, piece in enumerate(text.split(MARKER)):
                if number:
                    yield _next(images, where)
                if piece:
                    yield piece
        elif isinstance(text, str) and MARKER in text:
            raise UsageError(f"{where} holds {MARKER}, and the row has no `images`; give them, or remove the word.")
        else:
            yield part

    def _by_path(self, image: Image, row: Row) -> Image:
        """Return the image as a path or an allowed URL."""
        source = image.source
        if is_url(source):
            if not self.allow_urls:
                raise ImageError(f"{shown(source)} is a URL, and none is fetched; download it, or allow it by name.")
            return image
        if isinstance(source, bytes) or is_data_url(source):
            _, data = read(source, ImageLimits())  # type: ignore[arg-type]
            path = self.keep / hashlib.sha256(data).hexdigest()
            if not path.exists():
                self.keep.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as partial:  # a kill would leave a cut image under the digest of a whole one
                    partial.write_bytes(data)
            return replace(image, source=path)
        if isinstance(source, str | Path):  # a path of the column is beside the file already
            path = source if isinstance(source, Path) else row.file.parent / source
            return replace(image, source=path.absolute())
        raise ImageError("an image must be a path, a data URL, or bytes.")


def _messages_of(row: Row) -> list[Mapping[str, Any]]:
    """Return a row's messages, from any of the known shapes."""
    for name in CONVERSATIONS:
        if (value := row.get(name)) is not None:
            return _list_of(_parsed(value, name), name)
    for asked, answered in (("prompt", "completion"), ("question", "answer")):
        if row.get(asked) is not None and row.get(answered) is not None:
            return [*_system(row), *_side(row[asked], asked, "user"), *_side(row[answered], answered, "assistant")]
    raise UsageError(f"the row has none of the known shapes: {SHAPES}; its columns are {', '.join(row.values)[:200]}.")


def _system(row: Row) -> list[Mapping[str, Any]]:
    return _side(row["system"], "system", "system") if row.get("system") else []


def _side(value: Any, name: str, role: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, str | list):
        raise UsageError(f"{name} is {shown(value)}; write it as text.")
    return [{"role": role, "content": value}] if isinstance(value, str) else _list_of(value, name)


def _list_of(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        raise UsageError(f"{name} must be a list of objects with role and content, not {shown(value)}.")
    return value


def _markers(message: Mapping[str, Any]) -> int:
    """Count the places of the column's images in a message."""
    content = message.get("content", message.get("text"))
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    bare = [part for part in parts if isinstance(part, Mapping) and part.get("type") == "image"]
    return len(bare) + sum(text.count(MARKER) for text in texts if isinstance(text, str))


def _images_first(messages: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Put unmarked images before the first user message's text, as trl does."""
    first = next((number for number, message in enumerate(messages) if message.get("role") == "user"), 0)
    content = messages[first].get("content", messages[first].get("text"))
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    rest = {name: value for name, value in messages[first].items() if name != "text"}
    opened = rest | {"content": [*({"type": "image"} for _ in range(count)), *parts]}
    return [*messages[:first], opened, *messages[first + 1 :]]


def _next(images: Iterator[Image], where: str) -> Image:
    image = next(images, None)
    if image is None:
        raise UsageError(f"{where} marks more images than the row's `images` has.")
    return image


def _weight(message: dict[str, Any], where: str) -> bool:
    """Take Mistral's weight or ms-swift's loss out of a message; both are 0 or 1."""
    for name in ("weight", "loss"):
        if (value := message.pop(name, None)) is not None:
            if value not in (0, 1):
                raise UsageError(f"{where}.{name} is {shown(value)}; it must be 0 or 1.")
            return bool(value)
    return True


def _check_taught(messages: Sequence[Message], number: int) -> None:
    if messages[number].images:
        raise UsageError(f"messages.{number} (assistant) holds an image, and models write none; move it to a user's.")
    if not any(messages[number].content) and not messages[number].tool_calls:
        raise UsageError(f"messages.{number} (assistant) is empty; write an answer, or give it weight 0.")
    for place, call in enumerate(messages[number].tool_calls):
        _check_arguments(call, f"messages.{number}.tool_calls.{place}")
    if not any(message.role == "user" for message in messages[:number]):
        raise UsageError(f"messages.{number} (assistant) answers nothing; put a user message before it.")


def _check_arguments(call: Mapping[str, Any], where: str) -> None:
    """Raise UsageError if a trained call's arguments are not what a program could read: one JSON object."""
    if not isinstance(call.get("function"), Mapping):
        raise UsageError(f"{where}.function is {shown(call.get('function'))}; write an object of name and arguments.")
    arguments = arguments_of(call)
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise UsageError(f"{where} has the arguments {shown(arguments)}; write a JSON object, or give it weight 0.")


def _tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    value = row.get("tools")
    return tuple(_list_of(_parsed(value, "tools"), "tools")) if value else ()


def _parsed(value: Any, name: str) -> Any:
    """Return a value that some trainers store as JSON text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise UsageError(f"{name} is no JSON: {shown(value)}; give a list of objects.") from None
