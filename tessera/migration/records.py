"""Two models' records of the same documents on the disk, paired by document, few of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tessera.documents.record import Record
from tessera.documents.stored import record_object, record_of


def write_records(path: Path, records: Iterable[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record_object(record)) + "\n")


def read_records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield record_of(json.loads(line))


def paired(old: Path, new: Path) -> Iterator[tuple[Record, Record]]:
    """Yield both records of each document, the old one's order first; who lacks a document has a failed record."""
    places: dict[str, int] = {}
    with new.open("rb") as file:
        while line := file.readline():
            places.setdefault(json.loads(line)["document"], file.tell() - len(line))
        for record in read_records(old):
            place = places.pop(record.document, None)
            if place is None:
                yield record, _absent(record)
                continue
            file.seek(place)
            yield record, record_of(json.loads(file.readline()))
        for place in places.values():
            file.seek(place)
            record = record_of(json.loads(file.readline()))
            yield _absent(record), record


def _absent(record: Record) -> Record:
    message = f"{record.document} was not there when this model ran; run both again."
    return Record(record.document, record.pages, None, error="absent", message=message, review=True)
