"""`python -m benchmarks.papers FOLDER`: receipts and invoices with known values, line items and places.

Chromium prints them, and no training of nano draws with it. The same papers are given as PDFs with a text layer, and
as scans without one: smaller, blurred and compressed. `benchmarks.documents` reads some. Written to FOLDER they are
others, half of them scans, with labels for `tessera extract samples`, by kind: FOLDER/receipt.jsonl and invoice.jsonl.
"""

from __future__ import annotations

import argparse
import json
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
NEVER = {"receipt": (), "invoice": ("currency",)}  # not asked about: a sign before a sum may count as one
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


def write(folder: Path, count: int) -> list[Path]:
    """Write papers and their labels, which name every value of the presets; returns the files of labels."""
    lines: dict[str, list[str]] = {kind: [] for kind in NAMES}
    for form, scans in (("scans", True), ("pdfs", False)):
        for sheet in sheets(folder / form, count // 2, scans=scans, seed=f"teaching, {form}"):
            items = [{"quantity": None} | dict(each) for each in sheet.items]
            value = {**sheet.values, **dict.fromkeys(NEVER[sheet.kind]), "items": items}
            lines[sheet.kind].append(json.dumps({"document": f"{form}/{sheet.path.name}", "value": value}))
    files = []
    for kind, every in lines.items():
        files.append(folder / f"{kind}.jsonl")
        files[-1].write_text("\n".join(every) + "\n", encoding="utf-8")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--papers", type=int, default=400, help="half of them scans, half receipts")
    arguments = parser.parse_args()
    for file in write(arguments.folder, arguments.papers):
        print(file)


if __name__ == "__main__":
    main()
