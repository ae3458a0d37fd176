"""Folders of samples: images with questions, and answers if known.

A folder with a `labels.jsonl` has one sample per line: {"image": ..., "question": ..., "answer": ...}, as
`tessera nano draw` writes them; the answer may be left out. Any other folder is its images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.errors import UsageError
from tessera.messages import Image, Message

LABELS = "labels.jsonl"
MARKER = "<image>"  # of an image's place, in the texts of rows
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")


@dataclass(frozen=True)
class Sample:
    """A conversation that asks, and its answer; None if unknown."""

    messages: tuple[Message, ...]
    answer: str | None = None

    @property
    def turns(self) -> list[Message]:
        """Return the messages, with the answer as the assistant's."""
        return [*self.messages, *(() if self.answer is None else (Message("assistant", (self.answer,)),))]


def read_samples(folder: Path, question: str) -> Iterator[Sample]:
    """Read a folder's samples lazily, in order; images without labels are asked `question`.

    Raises UsageError that names the file and the line, also for a folder without samples.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one that holds {LABELS} or images.")
    found = 0
    for sample in _labelled(folder) if (folder / LABELS).is_file() else _images(folder, question):
        found += 1
        yield sample
    if not found:
        raise UsageError(f"{folder} holds no samples; name a folder that holds {LABELS} or images.")


def _labelled(folder: Path) -> Iterator[Sample]:
    path = folder / LABELS
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _sample(folder, number, line)


def _sample(folder: Path, number: int, line: bytes) -> Sample:
    where = f"{folder / LABELS}, line {number}"
    try:
        label: Any = json.loads(line.decode("utf-8"))
        name, question, answer = label["image"], label["question"], label.get("answer")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 (byte {error.start}); convert the file.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        name = question = answer = None
    if not isinstance(name, str) or not isinstance(question, str) or not isinstance(answer, str | None):
        raise UsageError(
            f"{where}: a line must be a JSON object with the texts image (a file of the folder) and question, and "
            "may have an answer."
        )
    return Sample((Message("user", (Image(folder / name), question)),), answer)


def _images(folder: Path, question: str) -> Iterator[Sample]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in IMAGES:
            yield Sample((Message("user", (Image(file), question)),))
