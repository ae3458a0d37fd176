"""Writes the review report: records with the most doubtful first, and images of the pages that they need.

Memory does not grow with the number of records: they go through files on the disk, and images are rendered one at a
time. Whatever is left out at a limit is counted, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tessera.documents.page import Page
from tessera.documents.record import Record
from tessera.documents.review.packed import head, tail
from tessera.documents.stored import lasting_object
from tessera.errors import DocumentError, UsageError
from tessera.machine import disk_room, written_whole

Pages = Callable[[str, int], Page | None]
LARGEST_EXACT = 2**53 - 1  # of integers in a browser
SEARCHED_PAGES = 4  # of a document, shown for a doubtful value without a place
# "<" and "&" would end a script or begin markup; the two separators end a line in older JavaScript.
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


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
        file.write(f'<script type="application/json" id="facts">{_json(facts)}</script>\n{tail()}')
    return writer.counts


class _Writer:
    """Writes a report's parts, and counts what comes and what is left out."""

    def __init__(self, limits: ReportLimits, pages: Pages) -> None:
        self.limits, self.pages, self.counts = limits, pages, ReportCounts()
        # Pages by need: those of doubtful values first. Bounded by the records' bytes.
        self.needed: tuple[dict[tuple[str, int], None], dict[tuple[str, int], None]] = ({}, {})

    def write_records(self, file: IO[str], records: Iterable[Record], folder: Path) -> str:
        """Write the records that have room, doubtful ones first, and return their digest."""
        with _spool(folder) as doubtful, _spool(folder) as others:
            for record in records:
                self._count(record)
                spool = doubtful if record.review or record.error is not None else others
                spool.write(_json(lasting_object(record)) + "\n")
            digest, written, room = hashlib.sha256(), 0, self.limits.record_bytes
            file.write('<script type="application/json" id="records">\n')
            for line in _lines(doubtful, others):
                if written == self.limits.records or len(line) > room:
                    continue
                file.write(line)
                digest.update(line.encode())
                written, room = written + 1, room - len(line)
                self._need(json.loads(line))
            file.write("</script>\n")
        self.counts.records_left_out = self.counts.records - written
        return digest.hexdigest()

    def write_images(self, file: IO[str]) -> list[dict[str, Any]]:
        """Write images while there is room, and return what they show, in their order."""
        first, second = self.needed
        wanted = [*first, *(key for key in second if key not in first)]
        found: list[dict[str, Any]] = []
        room = self.limits.image_bytes
        for index, (document, number) in enumerate(wanted):
            if len(found) == self.limits.images or room <= 0:
                self.counts.images_left_out = len(wanted) - index
                break
            image = self._image(document, number)
            if image is None:
                self.counts.images_failed += 1
                continue
            data, size = image
            room -= len(data)
            file.write(f'<script type="text/plain" id="image-{len(found)}">{data}</script>\n')
            found.append({"document": document, "page": number, "width": size[0], "height": size[1]})
        self.counts.images = len(found)
        return found

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

    def _image(self, document: str, number: int) -> tuple[str, tuple[int, int]] | None:
        try:
            page = self.pages(document, number)
            if page is None:
                return None
            image = page.image(self.limits.image_side)
        except DocumentError:
            return None  # the record tells its error; a page that was readable before is only not shown
        file = io.BytesIO()
        # A printed page takes 18 to 25 KiB and 40 ms; as WebP a third of the bytes and ten times the time.
        image.convert("RGB").save(file, "JPEG", quality=60, optimize=True)
        return base64.b64encode(file.getvalue()).decode(), image.size


def _spool(folder: Path) -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)


def _lines(*spools: IO[str]) -> Iterator[str]:
    for spool in spools:
        spool.seek(0)
        yield from spool


def _json(value: Any) -> str:
    """JSON of one line that can stand within a script element and that a browser reads without loss."""
    return json.dumps(exact(value), ensure_ascii=True, allow_nan=False).translate(ESCAPES)


def exact(value: Any) -> Any:
    """Turn what a browser would round or refuse (long integers, infinities, other types) into text."""
    if isinstance(value, Mapping):
        return {str(key): exact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_EXACT:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)
