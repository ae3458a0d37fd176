"""Places of values in a page's text layer: exact, or nearly so, chosen among several by the labels and rows around.

A value is found across words and line breaks, and numbers and dates in any notation. Only texts may differ in a few
letters: a number that differs is another number. The time for a document is bounded; values after it get no place.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from tessera.documents.page import Box, Page
from tessera.documents.readings import CURRENCY, MONTH_OF, dates_of, numbers_of, plain
from tessera.documents.spans import group_of, name_of

MAX_WORDS = 20_000  # of a page; a denser text layer is cut here
MAX_PLACES = 200  # of one value
MAX_LENGTH = 1000  # characters of a value
MAX_FUZZY_LENGTH, MIN_FUZZY_LENGTH = 200, 4
MIN_LIKENESS = 80.0  # per cent of a text's letters, for a fuzzy place
MAX_SECONDS = 2.0  # for the values of one document
DATE_WORDS, NUMBER_WORDS = 5, 3  # words that a date or a number may have
CURRENCY_SIGNS = "$€£¥₹%"
ABOVE = 2.0  # a step down a page's height counts as so many across its width, when nearness to a label is judged
FAR = 10.0


@dataclass(frozen=True)
class Place:
    """A place of a value on a page."""

    box: Box
    source: Literal["text", "text_fuzzy"]
    text: str  # as printed


class PageText:
    """A page's words as one string without spaces, and what each word may mean; made once for all values."""

    def __init__(self, page: Page) -> None:
        self.words = page.words[:MAX_WORDS]
        self.plain = [plain(word.text).replace(" ", "") for word in self.words]
        self.starts = [0, *accumulate(map(len, self.plain))]
        self.letters = "".join(self.plain)

    @cached_property
    def numbers(self) -> Mapping[Decimal, list[tuple[int, int]]]:
        """The words, first and last, that may mean each number."""
        found: dict[Decimal, list[tuple[int, int]]] = defaultdict(list)
        for first in range(len(self.words)):
            for last in range(first, min(first + NUMBER_WORDS, len(self.words))):
                text = _stripped(" ".join(word.text for word in self.words[first : last + 1]))
                if not text or not any(map(str.isdigit, self.words[last].text)):
                    if not _is_sign(self.words[last].text):
                        break  # words without digits end a number; a currency's sign may come before or after it
                    continue
                for value in numbers_of(text):
                    found[value].append((first, last))
        return found

    @cached_property
    def dates(self) -> Mapping[date, list[tuple[int, int]]]:
        found: dict[date, list[tuple[int, int]]] = defaultdict(list)
        dated = [_may_date(word) for word in self.plain]
        for first, is_dated in enumerate(dated):
            if not is_dated:
                continue
            for last in range(first, min(first + DATE_WORDS, len(self.words))):
                if not dated[last] and self.plain[last] not in ("of", "de"):
                    break
                for value in dates_of(_stripped(" ".join(word.text for word in self.words[first : last + 1]))):
                    found[value].append((first, last))
        return found

    def exact(self, letters: str) -> list[tuple[int, int]]:
        """Return where a text without spaces stands, as first and end characters; words are not cut inside."""
        found: list[tuple[int, int]] = []
        start = self.letters.find(letters)
        while start >= 0 and len(found) < MAX_PLACES:
            if self._is_edge(start) and self._is_edge(start + len(letters)):
                found.append((start, start + len(letters)))
            start = self.letters.find(letters, start + 1)
        return found

    def fuzzy(self, letters: str) -> tuple[int, int] | None:
        """Return the most similar stretch of whole words, if it is similar enough."""
        from rapidfuzz.fuzz import partial_ratio_alignment, ratio

        found = partial_ratio_alignment(letters, self.letters, score_cutoff=MIN_LIKENESS)
        if found is None or found.dest_start == found.dest_end:
            return None
        start = self.starts[self.word_at(found.dest_start)]
        end = self.starts[self.word_at(found.dest_end - 1) + 1]
        return (start, end) if ratio(letters, self.letters[start:end]) >= MIN_LIKENESS else None

    def box(self, start: int, end: int) -> Box:
        """Return the box of a stretch of characters; a part of a word takes its share of the word's width."""
        first, last = self.word_at(start), self.word_at(end - 1)
        boxes = [word.box for word in self.words[first : last + 1]]
        boxes[0] = _part(boxes[0], (start - self.starts[first]) / len(self.plain[first]), 1.0)
        share = (end - self.starts[last]) / len(self.plain[last])
        if last == first:
            boxes[0] = _part(self.words[first].box, (start - self.starts[first]) / len(self.plain[first]), share)
        else:
            boxes[-1] = _part(boxes[-1], 0.0, share)
        return union(boxes)

    def word_box(self, first: int, last: int) -> Box:
        return union([word.box for word in self.words[first : last + 1]])

    def text_of(self, start: int, end: int) -> str:
        return " ".join(word.text for word in self.words[self.word_at(start) : self.word_at(end - 1) + 1])

    def word_at(self, character: int) -> int:
        return bisect_right(self.starts, character, hi=len(self.words)) - 1

    def labels(self, name: str) -> list[Box]:
        """Return the boxes of words that are part of a field's name."""
        wanted = {plain(part) for part in _name_words(name)}
        return [
            word.box
            for word, text in zip(self.words, self.plain, strict=True)
            if text.strip(".:;#()") in wanted and text
        ]

    def _is_edge(self, character: int) -> bool:
        """Return True at a word's boundary, or between a letter or digit and another sign inside a word."""
        if character in (0, len(self.letters)) or self.starts[self.word_at(character)] == character:
            return True
        return not (self.letters[character - 1].isalnum() and self.letters[character].isalnum())


class TextPlaces:
    """Places of a record's values in its pages' text layers."""

    def __init__(self, pages: Sequence[Page], max_seconds: float = MAX_SECONDS) -> None:
        self.pages = [PageText(page) for page in pages if page.words]
        self.ends_at = time.monotonic() + max_seconds
        self._not_tried: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.pages)

    def find(self, values: Mapping[str, Any]) -> dict[str, Place]:
        """Return the places of values by path; first those with one place, which then help to choose the others'."""
        candidates: dict[str, list[Place]] = {}
        for path, value in values.items():
            if time.monotonic() > self.ends_at or len(str(value)) > MAX_FUZZY_LENGTH:
                self._not_tried.add(path)
            if time.monotonic() > self.ends_at:
                continue
            if value is not None and not isinstance(value, (bool, dict, list)):
                candidates[path] = self.candidates(value)
        found = {path: places[0] for path, places in candidates.items() if len(places) == 1}
        for path, places in candidates.items():
            if len(places) > 1:
                found[path] = self._nearest(path, places, found)
        return {path: found[path] for path in values if path in found}

    def gave_up(self, path: str) -> bool:
        """Return True if a value's absence means nothing: there was no time, or it is too long to be compared."""
        return path in self._not_tried

    def candidates(self, value: Any) -> list[Place]:
        """Return all exact places of a value on all pages; without any, the most similar one, if it is a text."""
        text = str(value)
        letters = plain(text).replace(" ", "")
        if not letters or len(text) > MAX_LENGTH:
            return []
        found = [
            Place(page.box(start, end), "text", page.text_of(start, end))
            for page in self.pages
            for start, end in page.exact(letters)
        ]
        numbers, dates = numbers_of(text), dates_of(text)
        if not found and (numbers or dates):
            found = self._meaning(numbers, dates)
        if found or numbers or dates or not MIN_FUZZY_LENGTH <= len(letters) <= MAX_FUZZY_LENGTH:
            return found[:MAX_PLACES]
        return self._similar(letters)

    def _meaning(self, numbers: frozenset[Decimal], dates: frozenset[date]) -> list[Place]:
        spans: dict[tuple[int, int, int], None] = {}
        for number, page in enumerate(self.pages):
            if numbers:
                spans |= {(number, *span): None for value in numbers for span in page.numbers.get(value, ())}
            if dates:
                spans |= {(number, *span): None for value in dates for span in page.dates.get(value, ())}
        found = []
        for number, first, last in spans:
            # Of "5 March 2026" and "5 March 2026," the shorter stretch is the place.
            if not any(n == number and first <= f and z <= last and (f, z) != (first, last) for n, f, z in spans):
                page = self.pages[number]
                text = " ".join(word.text for word in page.words[first : last + 1])
                found.append(Place(page.word_box(first, last), "text", text))
        return found

    def _similar(self, letters: str) -> list[Place]:
        for page in self.pages:
            if time.monotonic() > self.ends_at:
                break
            if (span := page.fuzzy(letters)) is not None:
                return [Place(page.box(*span), "text_fuzzy", page.text_of(*span))]
        return []

    def _nearest(self, path: str, places: Sequence[Place], found: Mapping[str, Place]) -> Place:
        """Choose by the distance to the field's label and to the other fields of its list item.

        A place that another field of the same kind has is taken only if no other is left.
        """
        group, name = group_of(path), name_of(path)
        siblings = [each.box for other, each in found.items() if group and group_of(other) == group]
        labels = [box for page in self.pages for box in page.labels(name)]
        taken = {each.box for other, each in found.items() if name_of(other) == name or not group}

        def cost(place: Place) -> tuple[bool, float]:
            if siblings:
                return place.box in taken, min(_row_distance(place.box, box) for box in siblings)
            return place.box in taken, min((_label_distance(place.box, box) for box in labels), default=0.0)

        return min(places, key=cost)


def union(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around boxes of one page; those of other pages than the first's do not count."""
    page = boxes[0].page
    same = [box for box in boxes if box.page == page]
    return Box(
        page,
        min(box.left for box in same),
        min(box.top for box in same),
        max(box.right for box in same),
        max(box.bottom for box in same),
    )


def overlap(one: Box, other: Box) -> float:
    """Return the intersection of two boxes as a share of their union; 0 on different pages."""
    if one.page != other.page:
        return 0.0
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return width * height / (areas - width * height)


def _part(box: Box, start: float, end: float) -> Box:
    width = box.right - box.left
    return Box(box.page, box.left + start * width, box.top, box.left + end * width, box.bottom)


def _row_distance(box: Box, sibling: Box) -> float:
    """How far two fields are from standing in one row."""
    if box.page != sibling.page:
        return FAR
    return abs((box.top + box.bottom) - (sibling.top + sibling.bottom)) / 2


def _label_distance(box: Box, label: Box) -> float:
    """How far a value is from its label: to its left in the same line, or above it, is where labels are."""
    if box.page != label.page:
        return FAR
    down = (box.top + box.bottom - label.top - label.bottom) / 2
    height = max(label.bottom - label.top, 1e-6)
    if abs(down) < height / 2:  # the same line
        across = box.left - label.right
        return across if across >= -1e-3 else 1.0 - across
    across = abs(box.left - label.left)
    return ABOVE * down + across if down > 0 else 1.0 - ABOVE * down + across


def _stripped(text: str) -> str:
    return text.strip(" .,:;")


def _is_sign(text: str) -> bool:
    return not CURRENCY.sub("", text).strip(" .")


def _may_date(word: str) -> bool:
    return any(map(str.isdigit, word)) or word.strip(".,") in MONTH_OF


def _name_words(name: str) -> list[str]:
    """Split a key: "invoiceNumber" and "invoice_number" are "invoice" and "number"."""
    spaced = "".join(f" {char}" if char.isupper() else char if char.isalnum() else " " for char in name)
    words = spaced.split() if not name.isupper() else name.replace("_", " ").split()
    return [word for word in words if len(word) > 1]
