"""Pages and what is known about places on them, independent of the files they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image as PILImage


@dataclass(frozen=True)
class Box:
    """A rectangle on a page as it is displayed: fractions of its width and height, from the top left."""

    page: int  # from 1
    left: float
    top: float
    right: float
    bottom: float

    def turned(self, rotation: int) -> Box:
        """Return where the rectangle is once the page is turned clockwise, by a multiple of 90 degrees."""
        left, top, right, bottom = self.left, self.top, self.right, self.bottom
        for _ in range(rotation % 360 // 90):
            left, top, right, bottom = 1.0 - bottom, left, 1.0 - top, right
        return Box(self.page, left, top, right, bottom)


@dataclass(frozen=True)
class Word:
    """A word of a page's text layer, in reading order."""

    text: str
    box: Box


@dataclass(frozen=True)
class PageError:
    """Why a document, or one page of it, cannot be read: a stable code and a sentence."""

    document: str
    number: int | None  # None: the whole document
    code: str
    message: str
    digest: str | None = None


class Page(ABC):
    """One page of a document, upright; images are rendered when asked for.

    `size` is in points of 1/72 inch (pixels for pictures), `rotation` the degrees clockwise that were applied to
    display it. `words` is empty without a text layer. A blank page has next to no ink.
    """

    document: str  # the path as given; for a member of an archive or mail, "archive.zip/member.pdf"
    digest: str  # SHA-256 of the document's bytes
    number: int  # from 1
    count: int  # pages of the document
    size: tuple[float, float]
    rotation: int
    words: tuple[Word, ...]
    blank: bool
    figures: tuple[Box, ...] = ()  # pictures on the page, where the file tells them; none of the whole page
    pixels: int | None = None  # along the longer edge, as stored; None: the page can be rendered at any size

    @abstractmethod
    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        """Render the page, or a part, in RGB, `side` pixels along the longer edge, turned further by `rotation`.

        Stored pixels are not enlarged. Raises DocumentError.
        """

    @property
    def text(self) -> str:
        """The text layer, words separated by spaces and lines by newlines."""
        lines: list[list[Word]] = []
        for word in self.words:
            last = lines[-1][-1] if lines else None
            if last is not None and last.box.top < (word.box.top + word.box.bottom) / 2 < last.box.bottom:
                lines[-1].append(word)
            else:
                lines.append([word])
        return "\n".join(" ".join(word.text for word in line) for line in lines)
