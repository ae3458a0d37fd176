"""The rows of an extraction: one file of JSON lines that grows while documents become complete.

A row is a record as `record_object` writes it, with a `key` and its document's `number`. A position in the file is
where a client goes on reading. A row is written after its results are on the disk, so none is written twice.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.documents.record import Record
from tessera.documents.stored import record_of
from tessera.machine import disk_room
from tessera.server.errors import BadRequestError
from tessera.server.extraction_schemas import Correction

MAX_READ_BYTES = 4 << 20  # of one answer; a longer row comes alone
OURS = ("key", "number")


def rows_file(folder: Path) -> Path:
    return folder / "rows.jsonl"


def repaired(path: Path) -> set[str]:
    """Cut off a row that a kill left unfinished, and return the keys of the others."""
    path.touch(mode=0o600)
    keys, end = set(), 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            keys.add(str(json.loads(line)["key"]))
            end += len(line)
        file.truncate(end)
    return keys


def append(path: Path, rows: Iterable[str]) -> None:
    with disk_room(path.parent), path.open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(row + "\n" for row in rows)


def read(path: Path, after: int, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Return rows from a position on, the position after them, and whether more are there already."""
    if not path.exists():
        return [], after, False
    size = path.stat().st_size
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        if after > size or (after and os.pread(file.fileno(), 1, after - 1) != b"\n"):
            raise BadRequestError(f"after is {after}, where no row begins; give the `next` of an earlier answer.",
                                  param="after")  # fmt: skip
        file.seek(after)
        end = after
        while len(rows) < limit and end - after < MAX_READ_BYTES:
            line = file.readline()
            if not line.endswith(b"\n"):
                break
            end += len(line)
            rows.append(json.loads(line))
    return rows, end, end < size


def records(path: Path, corrections: Sequence[Correction] = ()) -> Iterator[Record]:
    """Yield all records that are there, in the documents' order, as they were corrected; few of them in memory."""
    said = {each.key: each for each in corrections}
    places = array("q")
    if not path.exists():
        return
    with path.open("rb") as file:
        end = 0
        for line in file:
            if line.endswith(b"\n"):
                places.extend((json.loads(line)["number"], end))
                end += len(line)
        for _, start in sorted(zip(places[::2], places[1::2], strict=True)):
            file.seek(start)
            row = json.loads(file.readline())
            record = record_of({name: value for name, value in row.items() if name not in OURS})
            yield _corrected(record, said.get(row["key"]))


def _corrected(record: Record, said: Correction | None) -> Record:
    """A record with what a person said: values that were looked at ask for no look any more."""
    if said is None or record.error is not None:
        return record
    seen = set(said.seen)
    fields = {
        path: replace(field, value=_value_at(said.value, path, field.value), review=False, checks=())
        if said.whole or path in seen
        else field
        for path, field in record.fields.items()
    }
    checks = () if said.whole else record.checks
    asks = any(field.review for field in fields.values()) or bool(checks)
    return replace(record, value=said.value, fields=fields, checks=checks, review=asks)


def _value_at(value: Any, path: str, default: Any) -> Any:
    for step in path.replace("[", ".[").split("."):
        if step.startswith("[") and isinstance(value, list) and int(step[1:-1]) < len(value):
            value = value[int(step[1:-1])]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            return default
    return value
