"""Saved conversations: JSON lines in the user's data folder or in a chosen file.

Each line is one exchange, with its conversation's number, the model, and the messages in OpenAI's format.
Images are stored as paths and URLs, and only those from standard input as data.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tessera.cli.session import NamedImage, json_text
from tessera.errors import TesseraError, UsageError
from tessera.shelf import data_folder

NAME = "conversations.jsonl"


class HistoryError(TesseraError):
    """A conversation that could not be saved or found."""


@dataclass(frozen=True)
class Conversation:
    """A conversation so far, and its model; `model` is None for the bundled one."""

    model: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def default_file() -> Path:
    return data_folder() / NAME


def kept_turn(text: str, images: Sequence[NamedImage]) -> dict[str, Any]:
    """A user turn in stored form."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image.kept}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def keep(file: Path, conversation: Conversation, messages: Sequence[dict[str, Any]]) -> None:
    """Append an exchange to the file, which only its owner may read; raises HistoryError."""
    line = {
        "conversation": conversation.id,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": conversation.model,
        "messages": list(messages),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(opened, "ab") as out:
            out.write(f"{json_text(line)}\n".encode())
    except OSError as error:
        raise HistoryError(
            f"the conversation could not be saved in {file} ({error.strerror}); name another file with --log, or "
            "give --no-log."
        ) from error


def last(file: Path) -> Conversation:
    """Load the conversation of the file's last exchange; raises HistoryError."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except FileNotFoundError as error:
        raise HistoryError(f"there is no conversation in {file}; ask a first question without --continue.") from error
    except OSError as error:
        raise HistoryError(f"{file} cannot be read ({error.strerror}); check its permissions.") from error
    exchanges = [_parse(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not exchanges:
        raise HistoryError(f"there is no conversation in {file}; ask a first question without --continue.")
    ended = exchanges[-1]
    same = [each for each in exchanges if each["conversation"] == ended["conversation"]]
    messages = tuple(message for each in same for message in each["messages"])
    return Conversation(ended.get("model"), messages, ended["conversation"])


def _parse(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if isinstance(found["conversation"], str) and isinstance(found["messages"], list):
            return dict(found)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"line {number} of {file} is not a saved exchange; name another file with --log.") from error
    raise UsageError(f"line {number} of {file} is not a saved exchange; name another file with --log.")
