"""Writes the review report: records with the most doubtful first, and images of the pages that they need.

Memory does not grow with the number of records: they go through files on the disk, and images are rendered one at a
time. Whatever is left out at a limit is counted, and the page says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tessera.documents.record import Record
from tessera.documents.review.embedded import Pages, embeddable, lines_of, spool, write_images
from tessera.documents.review.packed import head, tail
from tessera.documents.stored import lasting_object
from tessera.errors import UsageError
from tessera.machine import disk_room, written_whole

SEARCHED_PAGES = 4  # of a document, shown for a doubtful value without a place


@dataclass(frozen=True)
class ReportLimits:
    """How much a report holds; browsers open files of some 100 MB."""

    records: int = 5_000
    record_bytes: int = 48 * 2**20
    images: int = 300
    image_bytes: int = 32 * 2**20
    image_side: int = 1400  # pixels along the longer edge: 120 a printed inch of an A4 page

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (0 if name.startswith("image") and name != "image_side" else 1):
                raise UsageError(f"{name} of a report cannot be {value}; give a larger number.")


@dataclass
class ReportCounts:
    """What was given to a report, and what of it the report holds."""

    records: int = 0
    review: int = 0  # records that ask for a look
    failed: int = 0
    records_left_out: int = 0
    images: int = 0
    images_left_out: int = 0
    images_failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)  # of failures


def write_report(
    path: Path,
    records: Iterable[Record],
    pages: Pages,
    *,
    title: str,
    schema: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    limits: ReportLimits | None = None,
) -> ReportCounts:
    """Write the report; it appears whole or not at all. Raises UsageError and DiskFullError.

    `pages` finds a document's page by its name and number, or returns None. `metrics` says how right the confidences
    are (`diagram.js` describes it); without it numbers are shown as scores.
    """
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the report; make it, or name another path.")
    writer = _Writer(limits or ReportLimits(), pages)
    with disk_room(path.parent), written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(head(title))
        digest = writer.write_records(file, records, path.parent)
        images = writer.write_images(file)
        facts = {
            "title": title, "digest": digest, "schema": schema, "metrics": metrics, "images": images,
            "counts": asdict(writer.counts), "limits": asdict(writer.limits),
        }  # fmt: skip
        file.write(f'<script type="application/json" id="facts">{embeddable(facts)}</script>\n{tail()}')
    return writer.counts


class _Writer:
    """Writes a report's parts, and counts what comes and what is left out."""

    def __init__(self, limits: ReportLimits, pages: Pages) -> None:
        self.limits, self.pages, self.counts = limits, pages, ReportCounts()
        # Pages by need: those of doubtful values first. Bounded by the records' bytes.
        self.needed: tuple[dict[tuple[str, int], None], dict[tuple[str, int], None]] = ({}, {})

    def write_records(self, file: IO[str], records: Iterable[Record], folder: Path) -> str:
        """Write the records that have room, doubtful ones first, and return their digest."""
        with spool(folder) as doubtful, spool(folder) as others:
            for record in records:
                self._count(record)
                chosen = doubtful if record.review or record.error is not None else others
                chosen.write(embeddable(lasting_object(record)) + "\n")
            digest, written, room = hashlib.sha256(), 0, self.limits.record_bytes
            file.write('<script type="application/json" id="records">\n')
            for line in lines_of(doubtful, others):
                if written == self.limits.records or len(line) > room:
                    continue
                file.write(line)
                digest.update(line.encode())
                written, room = written + 1, room - len(line)
                self._need(json.loads(line))
            file.write("</script>\n")
        self.counts.records_left_out = self.counts.records - written
        return digest.hexdigest()

    def write_images(self, file: IO[str]) -> Sequence[Mapping[str, Any]]:
        """Write images while there is room, and return what they show, in their order."""
        first, second = self.needed
        wanted = [*first, *(key for key in second if key not in first)]
        limits = self.limits
        images = write_images(
            file, wanted, self.pages, side=limits.image_side, count=limits.images, size=limits.image_bytes
        )
        self.counts.images, self.counts.images_left_out = len(images.shown), images.left_out
        self.counts.images_failed = images.failed
        return images.shown

    def _count(self, record: Record) -> None:
        self.counts.records += 1
        if record.error is not None:
            self.counts.failed += 1
            self.counts.codes[record.error] = self.counts.codes.get(record.error, 0) + 1
        elif record.review:
            self.counts.review += 1

    def _need(self, record: Mapping[str, Any]) -> None:
        """Note the pages that a record's values are on, or may be on."""
        for each in record["fields"].values():
            kind = self.needed[0 if each["review"] else 1]
            if each["box"] is not None:
                kind[record["document"], each["box"][0]] = None
            elif each["review"] or each["state"] == "found":
                kind.update(dict.fromkeys((record["document"], page) for page in record["pages"][:SEARCHED_PAGES]))
