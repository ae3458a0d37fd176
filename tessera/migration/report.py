"""Writes the report: a decision, the values that differ with their places on the pages, and the numbers.

It is one file, like the review's. What a person clicks is kept in the browser and exported as labels, which the next
comparison reads. Memory does not grow with the number of values; what is left out at a limit is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tessera.documents.record import Record
from tessera.documents.review import packed
from tessera.documents.review.embedded import Pages, embeddable, lines_of, spool, write_images
from tessera.errors import UsageError
from tessera.machine import disk_room, written_whole
from tessera.migration.cells import Compared
from tessera.migration.stored import cell_object
from tessera.migration.summary import Summary

WEB = Path(__file__).parent / "web"
MODULES = ("dom.js", "kinds.js", "viewer.js")
PAGE = packed.Bundle(
    (*(packed.WEB / name for name in packed.STYLES), WEB / "compare.css"),
    (*(packed.WEB / name for name in MODULES), WEB / "numbers.js", WEB / "compare.js"),
)
SEARCHED_PAGES = 2  # of a document, shown for a value without a place


@dataclass(frozen=True)
class Limits:
    """How much a report holds; browsers open files of some 100 MB."""

    differ: int = 5_000  # values
    agree: int = 2_000
    cell_bytes: int = 24 * 2**20
    images: int = 300
    image_bytes: int = 32 * 2**20
    image_side: int = 1400  # pixels along the longer edge: 120 a printed inch of an A4 page


class Report:
    """Takes compared documents one by one, and writes the file at the end."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        if not path.parent.is_dir():
            raise UsageError(f"no folder {path.parent} for the report; make it, or name another path.")
        self.path, self.limits = path, limits or Limits()
        self._stack = ExitStack()
        # New errors first, then what nobody decided, what was fixed, what both read wrong, and at last what agrees.
        self._spools: list[IO[str]] = [self._stack.enter_context(spool(path.parent)) for _ in range(5)]
        self._counts = [0] * 5
        self._room = self.limits.cell_bytes
        self._needed: list[dict[tuple[str, int], None]] = [{} for _ in range(5)]
        self._digest = hashlib.sha256()

    def add(self, compared: Compared) -> None:
        record = compared.new if compared.new.pages else compared.old
        for cell in compared.cells:
            place = _order(cell.right, cell.match.agrees)
            self._counts[place] += 1
            most = self.limits.agree if cell.match.agrees else self.limits.differ
            kept = self._counts[4] if cell.match.agrees else sum(self._counts[:4])
            line = embeddable(cell_object(cell, record)) + "\n"
            if kept > most or len(line) > self._room:
                continue
            self._room -= len(line)
            self._digest.update(line.encode())
            self._spools[place].write(line)
            self._need(place, cell.old, cell.new, record)

    def write(self, summary: Summary, pages: Pages, *, title: str, schema: Mapping[str, Any]) -> None:
        """Write the file; it appears whole or not at all."""
        limits = self.limits
        with (
            disk_room(self.path.parent),
            written_whole(self.path) as partial,
            partial.open("w", encoding="utf-8") as out,
        ):
            out.write(packed.head(title, PAGE))
            out.write('<script type="application/json" id="cells">\n')
            written = 0
            for line in lines_of(*self._spools):
                out.write(line)
                written += 1
            out.write("</script>\n")
            wanted = list(dict.fromkeys(key for each in self._needed for key in each))
            images = write_images(
                out, wanted, pages, side=limits.image_side, count=limits.images, size=limits.image_bytes
            )
            facts = {
                "title": title, "digest": self._digest.hexdigest(), "schema": schema, "summary": summary.as_json(),
                "images": images.shown, "left_out": sum(self._counts) - written,
                "images_left_out": images.left_out + images.failed, "limits": asdict(limits),
            }  # fmt: skip
            out.write(f'<script type="application/json" id="facts">{embeddable(facts)}</script>\n{packed.tail(PAGE)}')

    def close(self) -> None:
        self._stack.close()

    def _need(self, place: int, old: Any, new: Any, record: Record) -> None:
        """Note the pages of a value's places or, without one, the document's first."""
        boxes = [each.box for each in (new, old) if each is not None and each.box is not None]
        numbers = [box.page for box in boxes] or (list(record.pages[:SEARCHED_PAGES]) if place < 4 else [])
        if place < 4 or len(self._needed[place]) < self.limits.images:
            self._needed[place].update(dict.fromkeys((record.document, number) for number in numbers))


def _order(right: str | None, agrees: bool) -> int:
    if agrees:
        return 4
    return {"old": 0, None: 1, "new": 2}.get(right, 3)
