"""Drawn pages with known answers for `benchmarks.search`: their words, PDFs of them, and questions about them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAGES_OF_FILE, LINES, SHORT, QUESTIONS = 100, 38, 12, 100


def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words("Nord Sued Alpen Rhein Baltic Harbor Summit Delta Orion Cobalt Maple Cedar Falcon Granite Lunar Vertex")
SECOND = _words("Tools Foods Paper Textile Optics Logistics Bakery Energy Garden Ceramics Marine Print Audio Glass")
FORMS = _words("Ltd GmbH Inc AG Sons Partners Group Works")
CITIES = _words("Zürich Lyon Porto Gdansk Leeds Malmö Bergen Torino Ghent Bilbao Graz Tampere Aarhus Nantes Cork Split")
THINGS = _words(
    "drill lathe bearing gasket valve pump hinge bracket lamp cable monitor keyboard printer ribbon envelope ledger "
    "croissant flour butter sugar coffee saucer kettle blanket curtain cotton linen thread button zipper lens prism"
)
MONTHS = _words("January February March April May June July August September October November December")
FILL = _words(
    "please find our terms below payment is due within thirty days of delivery the goods remain our property until "
    "paid in full questions are answered by the office between nine and five on working days a copy was sent to your "
    "branch"
)


@dataclass(frozen=True)
class Drawn:
    """A page's lines, and what can be asked for."""

    lines: tuple[str, ...]
    number: str
    part: str
    words: str  # vendor, city and thing, together on this page only
    rare: str  # a name that only this page has


SPACE = len(FIRST) * len(SECOND) * len(FORMS) * len(CITIES) * len(THINGS)  # vendors, their cities and things: 917,504


def drawn_pages(count: int, num_lines: int = LINES, seed: int = 7, first: int = 0) -> Iterator[Drawn]:
    """Draw pages; up to 800,000 of them, each question of a run has one answer. `first` is the first page's number."""
    draw = random.Random(seed)
    taken: set[tuple[str, ...]] = set()
    for index in range(first, first + count):
        if len(taken) > 0.9 * SPACE:  # new ones would be searched for ever longer, and at last forever
            taken.clear()
        while True:
            vendor = f"{draw.choice(FIRST)} {draw.choice(SECOND)} {draw.choice(FORMS)}"
            city, things = draw.choice(CITIES), draw.sample(THINGS, 3)
            if (key := (vendor, city, things[0])) not in taken:
                break
        taken.add(key)
        number = f"INV-{2024 + index % 3}-{100_000 + index}"
        part = f"{draw.choice('ABCDEFGH')}{draw.choice('KLMNPQ')}-{draw.randrange(1000, 9999)}-{index:05}"
        rare = "".join(draw.choice(pair) for pair in ("bdfgklmnprstvz", "aeiou") * 5) + str(index)
        lines = [f"Invoice {number}", vendor, f"{draw.randrange(1, 29)} {draw.choice(MONTHS)} {2024 + index % 3}", city]
        lines += [f"Contact {rare.rstrip('0123456789')}", f"Part {part}"]
        lines += [f"{draw.randrange(1, 90)} x {thing}   {draw.randrange(100, 99_999) / 100:.2f}" for thing in things]
        lines += [" ".join(draw.choice(FILL) for _ in range(10)) for _ in range(num_lines - len(lines))]
        yield Drawn(tuple(lines), number, part, f"{vendor} {city} {things[0]}", rare.rstrip("0123456789"))


def as_drawn(lines: Sequence[str]) -> Drawn:
    """A page again, by its lines."""
    number, rare, part = (lines[place].split()[-1] for place in (0, 4, 5))
    return Drawn(tuple(lines), number, part, f"{lines[1]} {lines[3]} {lines[6].split()[2]}", rare)


def written_pdf(pages: Sequence[Drawn]) -> bytes:
    """A PDF in A4 with a text layer, written by hand."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {count}/Kids[{kids}]>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, page in enumerate(pages):
        lines = "".join(f"({line}) Tj 0 -19 Td\n" for line in page.lines)
        stream = zlib.compress(f"BT /F 11 Tf 60 790 Td\n{lines}ET".encode("cp1252"), 1)
        bodies.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents {5 + 2 * number} 0 R"
            "/Resources<</Font<</F 3 0 R>>>>>>".encode()
        )
        bodies.append(b"<</Filter/FlateDecode/Length %d>>stream\n%b\nendstream" % (len(stream), stream))
    data, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        places.append(len(data))
        data += b"%d 0 obj%bendobj\n" % (number, body)
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}trailer<</Size {len(bodies) + 1}/Root 1 0 R>>\n"
    return bytes(data) + f"{end}startxref\n{len(data)}\n%%EOF\n".encode()


def questions(pages: Sequence[Drawn], seed: int = 11) -> dict[str, list[tuple[str, int]]]:
    """Questions of each kind, with the place of the page that answers."""
    draw = random.Random(seed)
    asked: dict[str, list[tuple[str, int]]] = {"number": [], "words": [], "misspelt": [], "part of a number": []}
    for place in draw.sample(range(len(pages)), min(QUESTIONS, len(pages))):
        page = pages[place]
        slip = draw.randrange(1, len(page.rare) - 2)
        misspelt = page.rare[:slip] + page.rare[slip + 1] + page.rare[slip] + page.rare[slip + 2 :]
        asked["number"].append((page.number, place))
        asked["words"].append((f"invoice from {page.words}", place))
        asked["misspelt"].append((misspelt, place))
        asked["part of a number"].append((page.part[1:], place))
    return asked
