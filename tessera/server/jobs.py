"""A batch as a journal's job: its items are the places of lines in the input file, their results are output rows.

The file is read twice, a line at a time: once to number the lines and refuse ids that occur twice, and again line by
line when they are asked. So a job of a million lines with pictures holds only those in flight.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import BinaryIO

from tessera.chat import Completion, Conversation, Tools
from tessera.documents.journal import DuplicateError, Item, Journal
from tessera.documents.runner import Again, Done
from tessera.errors import TesseraError, UsageError, shown
from tessera.machine import disk_room, written_whole
from tessera.messages import Message
from tessera.sampling import SamplingParams
from tessera.server.document_parts import without_documents
from tessera.server.lines import MAX_LINE_BYTES, Line, LineError, Question, Rows, question_of, read_line

MAX_COMPLETIONS = 8  # the most `n` of a line, as the server's default
PIECE = 1 << 20


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fill(journal: Journal, path: Path) -> None:
    """Add the file's lines to a new journal; raises UsageError if there are none, or two share an id."""
    if journal.counts().total:
        return
    try:
        if not journal.add(_places(path)) and not journal.counts().total:  # another run may have added them meanwhile
            raise UsageError(f"{path} holds no requests; write one JSON object a line.")
    except DuplicateError as error:
        first, second = number_of(error.first), number_of(error.second)
        identity = json.loads(error.identity)
        raise UsageError(
            f"{path}: lines {first} and {second} have the same custom_id {shown(identity)}; give each line its own."
        ) from error


def write_outputs(journal: Journal, out: Path) -> Path | None:
    """Write the rows in the input's order, failed ones to a file beside it; returns that one's path, if any failed."""
    errors, any_failed = errors_path(out), journal.counts().failed > 0
    if any_failed:
        _write_rows(journal, errors, failed=True)
    else:
        errors.unlink(missing_ok=True)  # an earlier run's, whose lines have been answered since
    _write_rows(journal, out, failed=False)
    return errors if any_failed else None


def _write_rows(journal: Journal, path: Path, *, failed: bool) -> None:
    with disk_room(path.parent), written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(row.result + "\n" for row in journal.results() if row.failed == failed)


def errors_path(out: Path) -> Path:
    """Example: replies.jsonl has replies.errors.jsonl beside it."""
    return out.with_name(f"{out.stem}.errors{out.suffix}")


@dataclass
class _Open:
    """A line in flight, and its choices so far; without a question, it asks nothing that can be answered."""

    line: Line
    question: Question | None = None
    completions: list[Completion] = field(default_factory=list)


class LineJob:
    """What a runner needs to answer lines: `ask` and `accept`."""

    def __init__(
        self, path: Path, rows: Rows, max_completions: int = MAX_COMPLETIONS,
        with_pages: Callable[[Sequence[Message]], list[Message]] = without_documents,
    ) -> None:  # fmt: skip
        self._path, self._rows, self._max_completions, self._with_pages = path, rows, max_completions, with_pages
        self._file: BinaryIO | None = None
        self._open: dict[str, _Open] = {}

    def ask(self, item: Item) -> tuple[Conversation, SamplingParams, Tools]:
        """The line's first question; raises TesseraError for one that no route would answer."""
        asked = self._open[item.id] = _Open(read_line(self._data(item), number_of(item.payload)))
        question = question_of(asked.line, self._rows.names, self._max_completions)
        asked.question = replace(question, messages=self._with_pages(question.messages))
        return asked.question.messages, asked.question.params[0], asked.question.tools

    def accept(self, item: Item, reply: Completion | TesseraError) -> Done | Again:
        """The line's row, or the question for its next choice."""
        asked = self._open.get(item.id)
        if isinstance(reply, TesseraError):
            self._open.pop(item.id, None)
            row = self._unasked(item, reply) if asked is None else self._rows.refused(asked.line, reply)
            return Done(row, failed=True)
        if asked is None or asked.question is None:
            raise RuntimeError(f"a reply came for {item.id}, which asked nothing")
        asked.completions.append(reply)
        question, number = asked.question, len(asked.completions)
        if number < len(question.params):
            return Again(question.messages, question.params[number], question.tools)
        del self._open[item.id]
        return Done(self._rows.answered(asked.line, asked.completions, logprobs=question.logprobs))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _data(self, item: Item) -> bytes:
        if self._file is None:
            self._file = self._path.open("rb")
        return _data_in(self._file, self._path, item)

    def _unasked(self, item: Item, error: TesseraError) -> str:
        """The row of a line that cannot be read, or that killed its process and is not opened again."""
        if isinstance(error, InputChangedError):
            raise error
        custom_id = json.loads(item.id)
        return self._rows.never_asked(number_of(item.payload), custom_id if isinstance(custom_id, str) else None, error)


def item_data(path: Path, item: Item) -> bytes:
    """The bytes of a line; raises InputChangedError if they are others than before."""
    with path.open("rb") as file:
        return _data_in(file, path, item)


def _data_in(file: BinaryIO, path: Path, item: Item) -> bytes:
    number, start, length, checksum = json.loads(item.payload)
    file.seek(start)
    data = file.read(length)
    if zlib.crc32(data) != checksum:
        raise InputChangedError(f"{path} was changed while it was read, at line {number}; begin anew with --force.")
    return data


class InputChangedError(UsageError):
    """The input is no longer the one that the journal was begun with."""


def _places(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line's id and place: number, offset, bytes and checksum."""
    for number, start, data in numbered_lines(path):
        yield _identity(data, number), json.dumps([number, start, len(data), zlib.crc32(data)])


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield each line's number from 1, its offset and its bytes; empty lines are passed over, long ones are cut."""
    with path.open("rb") as file:
        for number in count(1):
            start = file.tell()
            data = rest = file.readline(MAX_LINE_BYTES + 1)
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(PIECE)  # of a line that is too long, the beginning is enough to refuse it
            if not data:
                return
            if number == 1 and data.startswith(BOM_UTF8):
                start, data = start + len(BOM_UTF8), data.removeprefix(BOM_UTF8)
            if data.strip():
                yield number, start, data


def _identity(data: bytes, number: int) -> str:
    """The line's custom_id as JSON text, or its number if it has none that can be read."""
    try:
        return json.dumps(read_line(data, number).custom_id)
    except LineError as error:
        return str(number) if error.custom_id is None else json.dumps(error.custom_id)


def number_of(payload: str) -> int:
    """The number of the line at this place, from 1."""
    return int(json.loads(payload)[0])
