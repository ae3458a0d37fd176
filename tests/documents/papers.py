"""Pages made of words at known places, for tests that need no file."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as PILImage

from tessera.documents.page import Box, Page, Word

CHAR, LINE = 0.01, 0.02  # a character's width and a line's height, as shares of the page


class TypedPage(Page):
    """A page typed in a monospaced face: each line's words stand where their characters do."""

    def __init__(self, lines: Sequence[str], number: int = 1, picture: PILImage.Image | None = None) -> None:
        self.document, self.digest, self.number, self.count = "typed.pdf", "0" * 64, number, 1
        self.size, self.rotation, self.blank = (595.0, 842.0), 0, not lines
        self.words = tuple(
            Word(word, self.at(row, column, len(word)))
            for row, line in enumerate(lines)
            for column, word in _words(line)
        )
        self.picture = picture or PILImage.new("RGB", (100, 140), "white")

    def at(self, row: int, column: int, length: int) -> Box:
        left, top = column * CHAR, row * LINE
        return Box(self.number, left, top, left + length * CHAR, top + LINE * 0.8)

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        picture = self.picture
        if crop is not None:
            width, height = picture.size
            picture = picture.crop((round(crop.left * width), round(crop.top * height), round(crop.right * width), round(crop.bottom * height)))  # fmt: skip # noqa: E501
        return picture.rotate(-rotation, expand=True) if rotation else picture


def _words(line: str) -> list[tuple[int, str]]:
    found, column = [], 0
    for part in line.split(" "):
        if part:
            found.append((column, part))
        column += len(part) + 1
    return found
