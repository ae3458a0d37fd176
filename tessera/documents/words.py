"""Words from the characters of a PDF page: where each lies, whether they are real text, and the order they are read in.

Knows characters and rectangles only, so that it is tested without PDFium. Coordinates are fractions of the displayed
page, y down. PDFium's own order, that of the file, is kept unless it is plainly not one that people read in.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median

REAL = 0.85  # of a text layer's characters must be printable
MAX_WORDS = 100_000  # of a page
JUMPS = 0.25  # of the lines: a file whose text goes up the page more often was not written in reading order
PROSE_WORDS, PROSE_LINES = 3.5, 5  # a column of prose has as many words in a line and as many lines, or it is a table's
PROSE_HEIGHT = 0.05  # of the page's
GUTTER = 0.015  # of the page's width
PLACES = range(30, 71)  # hundredths of the width where a gutter may lie
# PDFium says 2 or U+FFFE for a hyphen at a line's end.
HYPHENS = {0x02: "-", 0xFFFE: "-", 0xAD: "-"}


@dataclass(frozen=True)
class Piece:
    """A word with its rectangle."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    @cached_property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


Char = tuple[int, float, float, float, float]  # a code and left, top, right, bottom


def words_of(chars: Iterable[Char]) -> list[Piece]:
    """Join characters to words, which white space separates; those that lie outside the page are left out."""
    words: list[Piece] = []
    run: list[Char] = []
    for char in chars:
        if chr(char[0]).isspace():
            _finish(run, words)
        else:
            run.append(char)
        if len(words) >= MAX_WORDS:
            break
    _finish(run, words)
    return words


def _finish(run: list[Char], words: list[Piece]) -> None:
    if run:
        codes, lefts, tops, rights, bottoms = zip(*run, strict=True)
        text, left, top, right, bottom = _text(codes), min(lefts), min(tops), max(rights), max(bottoms)
        run.clear()
        if 0 <= (left + right) / 2 <= 1 and 0 <= (top + bottom) / 2 <= 1:
            words.append(Piece(text, max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)))


def _text(codes: Iterable[int]) -> str:
    signs = "".join(map(chr, codes))
    if signs.isascii() and signs.isprintable():
        return signs
    signs = signs.translate(HYPHENS)
    # Ligatures are one character each, and a pair of surrogates two.
    whole = "".join(unicodedata.normalize("NFKC", sign) if "\ufb00" <= sign <= "\ufb06" else sign for sign in signs)
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def with_filled(words: list[Piece], filled: Iterable[Piece]) -> list[Piece]:
    """Put what is filled into a form after the word to its left, its label, or at the end."""
    words = list(words)
    for piece in filled:
        if all(-0.001 <= side <= 1.001 for side in (piece.left, piece.top, piece.right, piece.bottom)):
            before = [n for n, w in enumerate(words) if piece.top < w.middle < piece.bottom and w.left <= piece.left]
            place = max(before, key=lambda n: (words[n].left, n)) + 1 if before else len(words)
            words.insert(place, piece)
    return words[:MAX_WORDS]


def is_real(words: Sequence[Piece]) -> bool:
    """Decide if a text layer says what is printed: fonts without a mapping give codes, or signs of private use."""
    text = "".join(word.text for word in words)
    if not text or text.count("(cid:") * len("(cid:00)") > len(text) * (1 - REAL):
        return False
    good = sum(sign.isprintable() and sign != "\ufffd" and unicodedata.category(sign) != "Co" for sign in text)
    return good >= REAL * len(text)


# The order they are read in ------------------------------------------------------------------------------------------


def in_reading_order(words: Sequence[Piece]) -> list[Piece]:
    """Sort words if the file's order is not a reading order, or if it reads across two columns of prose."""
    if not _runs_right(words):  # sideways, upside down, or a script from right to left
        return list(words)
    lines = _runs(words)
    upwards = sum(after[0].middle < before[0].top for before, after in pairwise(lines))
    if len(lines) < 3:
        return list(words)
    if upwards > JUMPS * len(lines) and upwards > 3:
        return _sorted(words)
    if upwards == 0 and (gutter := _gutter(words)) is not None:
        return _by_columns(words, gutter)
    return list(words)


def _runs_right(words: Sequence[Piece]) -> bool:
    """Decide if words mostly follow each other to the right, in one row."""
    pairs = [(before, after) for before, after in pairwise(words) if before.top < after.middle < before.bottom]
    right = sum(after.left >= before.left for before, after in pairs)
    return 2 * right > len(pairs) and 4 * len(pairs) > len(words)


def _runs(words: Sequence[Piece]) -> list[list[Piece]]:
    """Cut words into lines, in their order: a line ends where the next word lies lower, higher or further left."""
    lines: list[list[Piece]] = []
    for word in words:
        last = lines[-1][-1] if lines else None
        if last is not None and last.top < word.middle < last.bottom and word.left >= last.left:
            lines[-1].append(word)
        else:
            lines.append([word])
    return lines


def _sorted(words: Sequence[Piece]) -> list[Piece]:
    """Order by place: columns of prose one after the other, everything else line by line."""
    gutter = _gutter(words)
    return _by_columns(words, gutter) if gutter is not None else _by_lines(words)


def _by_lines(words: Sequence[Piece]) -> list[Piece]:
    """Order from top to bottom and, within lines, from left to right."""
    lines: list[list[Piece]] = []
    for word in sorted(words, key=lambda word: (word.middle, word.left)):
        if lines and word.middle - lines[-1][0].middle < 0.5 * (lines[-1][0].bottom - lines[-1][0].top):
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line, key=lambda word: word.left)]


def _gutter(words: Sequence[Piece]) -> tuple[float, float, float] | None:
    """Find the gap between two columns of prose: its place across, and where the columns begin and end."""
    crossing: dict[int, list[float]] = {step: [0.0] for step in PLACES}
    for word in words:
        first, last = math.ceil(100 * (word.left - GUTTER / 2)), math.floor(100 * (word.right + GUTTER / 2))
        for step in range(max(first, PLACES.start), min(last + 1, PLACES.stop)):
            crossing[step].append(word.middle)
    best: tuple[float, float, float] | None = None
    most = 0
    for step in PLACES:
        bounds = sorted((*crossing[step], 1.0))
        top, bottom = max(pairwise(bounds), key=lambda pair: pair[1] - pair[0])
        if bottom - top < PROSE_HEIGHT:
            continue
        inside = [w for w in words if top < w.middle < bottom]
        right = [w for w in inside if w.right > step / 100]
        left = [w for w in inside if w.right <= step / 100] if _could_be_prose(right) else []
        if len(inside) > most and _is_prose(left) and _is_prose(right):
            best, most = (step / 100, top, bottom), len(inside)
    return best


def _could_be_prose(words: Sequence[Piece]) -> bool:
    return len(words) >= PROSE_LINES * PROSE_WORDS


def _is_prose(words: Sequence[Piece]) -> bool:
    if not _could_be_prose(words):
        return False
    lines = _runs(_by_lines(words))
    return len(lines) >= PROSE_LINES and median(len(line) for line in lines) >= PROSE_WORDS


def _by_columns(words: Sequence[Piece], gutter: tuple[float, float, float]) -> list[Piece]:
    place, top, bottom = gutter
    inside = [w for w in words if top < w.middle < bottom]
    return [
        *_by_lines([w for w in words if w.middle <= top]),
        *_by_lines([w for w in inside if w.right <= place]),
        *_by_lines([w for w in inside if w.right > place]),
        *_by_lines([w for w in words if w.middle >= bottom]),
    ]
