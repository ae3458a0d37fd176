"""Pages of plain text, such as a mail's: set in one typeface on A4, with its words where they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from tessera.documents.limits import PageLimits
from tessera.documents.page import Box, Page, Word
from tessera.documents.rendering import checked_side, turned, whole_or

WIDTH, HEIGHT, MARGIN = 595.0, 842.0, 50.0  # points
SIZE, LEADING = 11.0, 15.0
LINES = int((HEIGHT - 2 * MARGIN) / LEADING)
MEASURED_AT = 100  # pixels an em, to measure with


@dataclass(frozen=True)
class TextDocument:
    """A text that was broken into lines."""

    name: str
    digest: str
    lines: tuple[str, ...]
    limits: PageLimits

    @property
    def count(self) -> int:
        return max(-(-len(self.lines) // LINES), 1)

    def page(self, number: int) -> Page:
        return TextPage(self, number)


def set_text(name: str, digest: str, text: str, limits: PageLimits) -> TextDocument:
    """Break a text into lines that fit the page."""
    return TextDocument(name, digest, tuple(line for given in text.splitlines() for line in _broken(given)), limits)


class TextPage(Page):
    """A page of plain text."""

    rotation = 0
    size = (WIDTH, HEIGHT)

    def __init__(self, document: TextDocument, number: int) -> None:
        self.document, self.digest = document.name, document.digest
        self.number, self.count, self._limits = number, document.count, document.limits
        lines = document.lines[(number - 1) * LINES : number * LINES]
        self.words = tuple(word for row, line in enumerate(lines) for word in self._words(row, line))
        self.blank = not self.words

    def _words(self, row: int, line: str) -> Iterator[Word]:
        left, top = MARGIN, MARGIN + row * LEADING
        for text in line.split(" "):
            right = left + _width(text)
            if text:
                yield Word(text, Box(self.number, left / WIDTH, top / HEIGHT, right / WIDTH, (top + LEADING) / HEIGHT))
            left = right + _width(" ")

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        """Draw the text at any size."""
        checked_side(side, rotation)
        box = whole_or(crop)
        width, height = WIDTH * (box.right - box.left), HEIGHT * (box.bottom - box.top)
        scale = side / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        self._limits.check_size(f"{self.document}, page {self.number}", *size)
        image = PILImage.new("RGB", size, "white")
        font = ImageFont.load_default(SIZE * scale)
        draw = ImageDraw.Draw(image)
        for word in self.words:
            place = ((word.box.left - box.left) * WIDTH * scale, (word.box.top - box.top) * HEIGHT * scale)
            draw.text(place, word.text, fill="black", font=font)
        return turned(image, rotation)


def _broken(line: str) -> Iterator[str]:
    """Break a line at spaces, and a word that is too long anywhere."""
    room, taken = WIDTH - 2 * MARGIN, 0.0
    words: list[str] = []
    for given in "".join(sign if sign.isprintable() else " " for sign in line).split(" "):
        word = given
        while _width(word) > room:
            length = next(end for end in range(len(word) - 1, 0, -1) if _width(word[:end]) <= room)
            yield " ".join((*words, word[:length])) if not words else " ".join(words)
            words, taken, word = [], 0.0, word[length:] if not words else word
        if words and taken + _width(word) > room:
            yield " ".join(words)
            words, taken = [], 0.0
        words.append(word)
        taken += _width(f"{word} ")
    yield " ".join(words)


@lru_cache(maxsize=20_000)
def _width(text: str) -> float:
    return ImageFont.load_default(MEASURED_AT).getlength(text) * SIZE / MEASURED_AT
