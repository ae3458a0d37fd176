"""Receipts and invoices as files with known values, line items and places: what `benchmarks.documents` reads.

Chromium prints them, and no training of nano draws with it. The same papers are given as PDFs with a text layer, and
as scans without one: smaller, blurred and compressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tessera.documents.page import Box
from tessera.nano.measure.paper_pages import Drawn, draw
from tessera.nano.measure.papers import POINTS, SCALES, Frame, links_of, print_drawn, worn

# The presets' names of what is printed on each kind of paper.
NAMES = {
    "receipt": {},
    "invoice": {"due_date": "due", "subtotal": "net", "total": "gross"},
}  # fmt: skip
ABSENT = {
    "receipt": ("time", "payment_method", "cash", "change"),
    "invoice": ("vendor_tax_id", "iban"),
}
ITEM_KEYS = {"receipt": ("description", "amount"), "invoice": ("description", "quantity", "price", "amount")}


@dataclass(frozen=True)
class Sheet:
    """A file of one page and what a record of it must hold: values by path (None: not printed), line items, places."""

    path: Path
    kind: str  # a preset's name
    values: Mapping[str, str | None]
    items: tuple[Mapping[str, str], ...]
    places: Mapping[str, Box]


def sheets(folder: Path, count: int, *, scans: bool, seed: str = "benchmark") -> list[Sheet]:
    """Write so many papers into a folder, a file each."""
    import pypdfium2

    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(count, seed)
    made = []
    with pypdfium2.PdfDocument(print_drawn(folder, [each for _, each in drawn])) as document:
        for number, (random, each) in enumerate(drawn):
            page = document[number]
            path = folder / f"{number:04d}-{each.kind}.{'png' if scans else 'pdf'}"
            if scans:
                whole = page.render(scale=random.uniform(*SCALES) / POINTS).to_pil().convert("RGB")
                frame = Frame.around_ink(whole, page.get_size())
                worn(random, whole.crop(frame.pixels)).save(path)
            else:
                frame = Frame.whole(page.get_size())
                with pypdfium2.PdfDocument.new() as single:
                    single.import_pages(document, [number])
                    single.save(path)
            made.append(_sheet(path, each, links_of(document, page, frame)))
    for name in ("papers.html", "papers.pdf"):
        (folder / name).unlink()
    return made


def _sheet(path: Path, drawn: Drawn, places: Mapping[str, Box]) -> Sheet:
    names = NAMES[drawn.kind]
    values: dict[str, str | None] = {names.get(key, key): value for key, value in drawn.values.items()}
    values |= dict.fromkeys(ABSENT[drawn.kind])
    return Sheet(path, drawn.kind, values, drawn.items, {names.get(key, key): box for key, box in places.items()})
