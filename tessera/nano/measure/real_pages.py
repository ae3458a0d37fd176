"""Pieces of real manuals, rendered at several sizes; their text layer is the right answer.

The manuals come out of Debian's packages: R's and gnuplot's are set by LaTeX, DocBook's by FOP. What is
cut out is a run of lines that are plain ASCII and have nothing else beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from tessera.nano.measure.trial import REAL_PAGES, Trial
from tessera.nano.pictures.packages import package_files

PACKAGES = ("r-doc-pdf", "gnuplot-doc", "docbook-xsl-doc-pdf")
TYPE_SIZES = (10, 12, 14, 18, 24)  # pixels
LINES = (1, 1, 3, 6, 16)
WIDEST = 1000  # pixels
MARGIN = 4  # points
# What typesetters print for our characters; pdfium says 2 for a hyphen at a line's end.
PLAIN = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2212": "-", "\x02": "-",
         "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\u00a0": " "}  # fmt: skip
Box = tuple[float, float, float, float]  # left, bottom, right, top in points
TRIES = 400
QUESTIONS = ("Transcribe this.", "Read the text.", "What does it say?", "Transcribe the text.", "What is written here?")


@dataclass(frozen=True)
class Line:
    """A line of the text layer: its text, where it lies, and the size of its type in points."""

    text: str
    box: Box
    size: float
    even: bool  # all of one size: footnote marks and formulas have no one right reading


def paper_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "tessera" / "nano-papers"


def fetch_papers(folder: Path | None = None) -> list[Path]:
    """The manuals' files, downloaded when they are not there yet."""
    folder = folder or paper_folder()
    for package in PACKAGES:
        place = folder / package
        if place.is_dir():
            continue
        _, files = package_files(package, (".pdf",))
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / Path(name).name).write_bytes(content)
    return sorted(path for path in folder.rglob("*.pdf") if path.stat().st_size < 12_000_000)


def page_trials(pieces: int) -> Iterator[Trial]:
    """`pieces` cuttings in each size of type."""
    import pypdfium2

    documents = [pypdfium2.PdfDocument(path) for path in fetch_papers()]
    try:
        for number in range(pieces):
            for size in TYPE_SIZES:
                trial = _one(Random(f"papers {number} {size}"), documents, size)
                if trial is not None:
                    yield trial
    finally:
        for document in documents:
            document.close()


def _one(random: Random, documents: list[Any], size: int) -> Trial | None:
    wanted = random.choice(LINES)
    for _ in range(TRIES):
        document = random.choice(documents)
        page = document[random.randrange(len(document))]
        lines = lines_of(page)
        first = random.randrange(max(1, len(lines) - wanted))
        run = lines[first : first + wanted]
        if len(run) == wanted and _is_whole(run, lines) and _width(run) * size / median(x.size for x in run) < WIDEST:
            scale = size / median(line.size for line in run)
            picture = _cut(page, run, scale)
            text = "\n".join(line.text for line in run)
            source = f"{wanted} line" + "s" * (wanted > 1)
            question = random.choice(QUESTIONS)
            return Trial(REAL_PAGES, source, "transcribe", (picture,), question, text, type_size=float(size))
    return None


def lines_of(page: Any) -> list[Line]:
    """The lines of the text layer, in its order; characters without a box are spaces."""
    import pypdfium2.raw as pdfium

    text = page.get_textpage()
    try:
        lines: list[Line] = []
        chars: list[str] = []
        boxes: list[Box] = []
        sizes: list[float] = []
        for index in range(text.count_chars()):
            char = chr(pdfium.FPDFText_GetUnicode(text, index))
            if char in "\r\n":
                lines += _line(chars, boxes, sizes)
                chars, boxes, sizes = [], [], []
                continue
            chars.append(PLAIN.get(char, char))
            if not char.isspace():
                boxes.append(text.get_charbox(index))
                sizes.append(_type_size(text, index))
        return lines + _line(chars, boxes, sizes)
    finally:
        text.close()


def _type_size(text: Any, index: int) -> float:
    import pypdfium2.raw as pdfium

    matrix = pdfium.FS_MATRIX()
    pdfium.FPDFText_GetMatrix(text, index, matrix)
    upwards: float = (matrix.c**2 + matrix.d**2) ** 0.5
    return float(pdfium.FPDFText_GetFontSize(text, index)) * upwards


def _line(chars: list[str], boxes: list[Box], sizes: list[float]) -> list[Line]:
    if not boxes:
        return []
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    box = (min(lefts), min(bottoms), max(rights), max(tops))
    return [Line(" ".join("".join(chars).split()), box, median(sizes), max(sizes) - min(sizes) < 0.6)]


def _is_whole(run: list[Line], lines: list[Line]) -> bool:
    """Nothing but readable lines of one size, one below the other, with no other line among them."""
    size = run[0].size
    if not all(line.even and 8 <= line.size <= 14 and abs(line.size - size) < 0.3 for line in run):
        return False
    if not all(line.text.isascii() and line.text.isprintable() and len(line.text) > 5 for line in run):
        return False
    if any(". . ." in line.text or "..." in line.text for line in run):
        return False  # nobody counts the dots of a table of contents
    if not all(above.box[1] > below.box[1] > above.box[1] - 2.2 * size for above, below in pairwise(run)):
        return False
    left, bottom, right, top = _around(run)
    chosen = {id(line) for line in run}
    return not any(
        id(line) not in chosen
        and line.box[0] < right and line.box[2] > left and line.box[1] < top and line.box[3] > bottom
        for line in lines
    )  # fmt: skip


def _around(run: list[Line]) -> Box:
    lefts, bottoms, rights, tops = zip(*(line.box for line in run), strict=True)
    return min(lefts) - MARGIN, min(bottoms) - 1.5, max(rights) + MARGIN, max(tops) + 1.5


def _width(run: list[Line]) -> float:
    left, _, right, _ = _around(run)
    return right - left


def _cut(page: Any, run: list[Line], scale: float) -> Any:
    left, bottom, right, top = _around(run)
    width, height = page.get_size()
    crop = (max(0, left), max(0, bottom), max(0, width - right), max(0, height - top))
    return page.render(scale=scale, crop=crop).to_pil().convert("RGB")
