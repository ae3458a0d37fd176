"""Where a query's words stand on a page: the words that are hit, the text around most of them, and their boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tessera.documents.page import Box
from tessera.search.terms import tokens

SNIPPET_WORDS = 24
MAX_HITS = 500  # of a page


@dataclass(frozen=True)
class Wanted:
    """The tokens of a term, in a row; the last one may go on."""

    tokens: tuple[str, ...]
    prefix: bool = False


Hit = tuple[int, int]  # the first word and the one after the last


def find_hits(text: str, wanted: Iterable[Wanted]) -> list[Hit]:
    """Return the runs of words that say one of the terms, in order; words are divided by white space."""
    words = text.split()
    divided = {word: tokens(word) for word in set(words)}  # most words of a page come several times
    flat: list[tuple[str, int]] = [(token, number) for number, word in enumerate(words) for token in divided[word]]
    starts: dict[str, list[Wanted]] = {}
    prefixes: list[Wanted] = []
    for each in wanted:
        if each.prefix and len(each.tokens) == 1:
            prefixes.append(each)
        else:
            starts.setdefault(each.tokens[0], []).append(each)
    found: list[Hit] = []
    for place, (token, number) in enumerate(flat):
        if any(token.startswith(each.tokens[0]) for each in prefixes):
            found.append((number, number + 1))
        for each in starts.get(token, ()):
            run = flat[place : place + len(each.tokens)]
            if _says(each, [name for name, _ in run]):
                found.append((number, run[-1][1] + 1))
        if len(found) >= MAX_HITS:
            break
    return _merged(found)


def _says(wanted: Wanted, run: Sequence[str]) -> bool:
    if len(run) < len(wanted.tokens):
        return False
    last = run[-1].startswith(wanted.tokens[-1]) if wanted.prefix else run[-1] == wanted.tokens[-1]
    return last and tuple(run[:-1]) == wanted.tokens[:-1]


def _merged(hits: Sequence[Hit]) -> list[Hit]:
    merged: list[Hit] = []
    for first, end in sorted(hits):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def snippet(text: str, hits: Sequence[Hit], size: int = SNIPPET_WORDS) -> list[tuple[str, bool]]:
    """Return the part of a text with the most different hit words, as pieces and whether each is hit."""
    words = text.split()
    start = _densest(words, hits, size)
    end = min(start + size, len(words))
    pieces: list[tuple[str, bool]] = []
    place = start
    for first, last in hits:
        if first >= start and first < end:
            if place < first:
                pieces.append((" ".join(words[place:first]), False))
            pieces.append((" ".join(words[first : min(last, end)]), True))
            place = min(last, end)
    if place < end:
        pieces.append((" ".join(words[place:end]), False))
    if start > 0 and pieces:
        pieces.insert(0, ("…", False))
    if end < len(words):
        pieces.append(("…", False))
    return pieces


def _densest(words: Sequence[str], hits: Sequence[Hit], size: int) -> int:
    best, most = 0, 0
    for index, (first, _) in enumerate(hits):
        start = max(first - size // 4, 0)
        inside = {" ".join(words[a:b]).lower() for a, b in hits[index : index + size] if b <= start + size}
        if len(inside) > most:
            best, most = start, len(inside)
    return max(min(best, len(words) - size), 0)


def hit_boxes(text: str, hits: Sequence[Hit], boxes: Sequence[Box], page: int) -> tuple[list[Box], str]:
    """Return the places of hits, a box a line, and where they are from: the text layer, or an estimate by lines."""
    if boxes and len(boxes) == len(text.split()):
        return [box for first, end in hits for box in _by_line(boxes[first:end])], "text"
    lines = text.splitlines()
    bands: list[Box] = []
    counted = 0
    for number, line in enumerate(lines):
        count = len(line.split())
        if any(first < counted + count and end > counted for first, end in hits):
            bands.append(Box(page, 0.0, number / len(lines), 1.0, (number + 1) / len(lines)))
        counted += count
    return bands, "line"


def _by_line(boxes: Sequence[Box]) -> list[Box]:
    joined: list[Box] = []
    for box in boxes:
        last = joined[-1] if joined else None
        if last is not None and last.top < (box.top + box.bottom) / 2 < last.bottom and box.left >= last.left:
            joined[-1] = Box(
                box.page, last.left, min(last.top, box.top), max(last.right, box.right), max(last.bottom, box.bottom)
            )
        else:
            joined.append(box)
    return joined
