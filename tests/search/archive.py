"""Small archives of PDFs with text layers, for the tests of search."""

from __future__ import annotations

from pathlib import Path

from tessera.search.found import Hit
from tessera.search.scan import Counts, Reading, Scan
from tessera.search.searcher import Searcher
from tessera.search.store import NAME, writing
from tessera.search.writer import Writer
from tests.documents.files import pdf_bytes, text_at

ACME = ("Invoice No 2231", "Acme Tools Ltd", "Date 12 March 2026", "Part AB-1234-X drill, 2 pieces", "Total 120.50 EUR")
BAKERY = ("Receipt", "Corner Bakery Zürich", "Bread rolls and croissants for breakfast", "Total 15.00 on 3 April 2026")
LETTER = ("Dear customer", "prices of drilling machines rise in March", "kind regards Acme Tools")


def page(*lines: str) -> str:
    return "".join(text_at(60, 780 - 24 * number, line) for number, line in enumerate(lines))


def pdf(*pages: tuple[str, ...]) -> bytes:
    return pdf_bytes(*(page(*lines) for lines in pages))


def put(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        (folder / f"{name}.pdf").write_bytes(data)


def scanned(folder: Path, **reading: object) -> Counts:
    """Bring the folder's index up to date."""
    with writing(folder / NAME, folder) as connection:
        writer = Writer(connection)
        return Scan(folder, folder / NAME, writer, Reading(**reading)).run()  # type: ignore[arg-type]


def found(folder: Path, query: str) -> list[Hit]:
    with Searcher(folder) as searcher:
        return list(searcher.search(query).hits)


def places(folder: Path, query: str) -> list[tuple[str, int]]:
    return [(hit.file, hit.number) for hit in found(folder, query)]


def rows(folder: Path) -> dict[str, list[int]]:
    """The ids of every file's pages."""
    with Searcher(folder) as searcher:
        told: dict[str, list[int]] = {}
        for name, number in searcher.connection.execute(
            "SELECT f.name, p.id FROM files f JOIN pages p ON p.content = f.content ORDER BY f.name, p.number"
        ):
            told.setdefault(name, []).append(number)
        return told
