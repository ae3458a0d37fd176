"""PDF documents: pages read and rendered by child processes, which are replaced when they hang, crash or grow old."""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as PILImage

from tessera import children
from tessera.documents.ink import is_blank
from tessera.documents.limits import PageLimits
from tessera.documents.page import Box, Page, Word
from tessera.documents.rendering import KEPT, checked_side, turned, whole_or
from tessera.documents.sources import Source, locked_words
from tessera.errors import DocumentError

MAX_CHILDREN = 2
MAX_PAGES_OF_CHILD = 200  # then it is renewed: what its library leaks goes with it
START_S = 30.0
MAX_PASSWORDS = 100
WORDS = {
    "unsupported": "is encrypted in a way that cannot be read here; save it without a password.",
    "damaged": "is damaged or cut short; print it to a new PDF, or send the whole file again.",
    "empty": "has no pages; check the program that wrote it.",
    "too_large": "needs more memory than a page may; print it to a new PDF at a lower resolution.",
    "timeout": "takes longer than {seconds:g} seconds (page_seconds); print it to a new PDF or raise the limit.",
    "crashed": "ends the PDF reader; print it to a new PDF.",
}


@dataclass(frozen=True)
class PdfDocument:
    """A PDF that opens: what is needed to open it again, and the number of its pages."""

    name: str
    digest: str
    source: Source
    limits: PageLimits
    passwords: tuple[str, ...] = field(repr=False, default=())
    count: int = 0

    def page(self, number: int) -> Page:
        """Read a page. Raises DocumentError."""
        return PdfPage(self, number)


class PdfPage(Page):
    """A page of a PDF."""

    def __init__(self, document: PdfDocument, number: int) -> None:
        self.document, self.digest = document.name, document.digest
        self.number, self.count = number, document.count
        self._pdf = document
        answer, _ = _READERS.ask(document, {"ask": "read", "page": number - 1}, number)
        width, height = answer["size"]
        if not (width > 0 and height > 0):
            raise _error(document, "damaged", number)
        self.size, self.rotation = (width, height), answer["rotation"]
        self.words = tuple(Word(text, Box(number, *sides)) for text, *sides in answer["words"])
        self.figures = tuple(Box(number, *sides) for sides in answer["figures"])
        self.blank = not self.words and is_blank(self.image())

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        """Render the page anew at any size; a part is as sharp as the file allows."""
        checked_side(side, rotation)
        box = whole_or(crop)
        width, height = self.size[0] * (box.right - box.left), self.size[1] * (box.bottom - box.top)
        scale = side / max(width, height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        self._pdf.limits.check_size(f"{self.document}, page {self.number}", *size)
        place = {"left": box.left * self.size[0], "top": box.top * self.size[1], "scale": scale, "size": size}
        key = (self.digest, self.number, *place.values())
        return turned(KEPT.get(key, lambda: _READERS.render(self._pdf, self.number, place)), rotation)


class _Readers:
    """Children that own PDFium, each with one open document."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(MAX_CHILDREN)
        self._lock = threading.Lock()
        self._idle: list[_Reader] = []

    def count(self, document: PdfDocument) -> int:
        """Open a document and count its pages."""
        return int(self.ask(document, None, None)[0]["count"])

    def render(self, document: PdfDocument, number: int, place: dict[str, Any]) -> PILImage.Image:
        """Have a page, or a part of it, rendered."""
        _, file = self.ask(document, {"ask": "render", "page": number - 1, **place}, number)
        width, height = place["size"]
        try:
            with mmap.mmap(file, width * height * 3, access=mmap.ACCESS_READ) as pixels:
                return PILImage.frombytes("RGB", (width, height), pixels[:])
        finally:
            os.close(file)

    def ask(
        self, document: PdfDocument, question: dict[str, Any] | None, number: int | None
    ) -> tuple[dict[str, Any], int]:
        """Have a child open the document, unless it has, and answer a question about a page. Raises DocumentError."""
        with self._free:
            reader = None
            try:
                reader = self._take(document)
                answer, file = reader.open(document), -1
                if question is not None and "code" not in answer:
                    answer, file = reader.ask(question, document.limits.page_seconds)
            except DocumentError:  # the file has changed
                if reader is not None:
                    self._give_back(reader)
                raise
            except BaseException as error:
                ended = None if reader is None else reader.end()
                if isinstance(error, TimeoutError) or ended in children.ENDED_AS_SLOW:
                    raise _error(document, "timeout", number) from error
                if isinstance(error, OSError | ValueError):
                    raise _error(document, "crashed", number) from error
                raise
            self._give_back(reader)
        if "code" in answer:
            raise _error(document, answer["code"], number)
        return answer, file

    def _take(self, document: PdfDocument) -> _Reader:
        """Take the child that has this document open, else any, else a new one."""
        with self._lock:
            self._idle.sort(key=lambda reader: reader.opened == (document.digest, document.passwords))
            reader = self._idle.pop() if self._idle else None
        if reader is not None and reader.process.poll() is None and reader.num_pages < MAX_PAGES_OF_CHILD:
            return reader
        if reader is not None:
            reader.end()
        return _Reader.start()

    def _give_back(self, reader: _Reader) -> None:
        with self._lock:
            self._idle.append(reader)


@dataclass
class _Reader(children.Child):
    opened: tuple[str, tuple[str, ...]] | None = field(repr=False, default=None)  # a document with its passwords
    answer: dict[str, Any] = field(default_factory=dict)
    num_pages: int = 0

    @classmethod
    def start(cls) -> _Reader:
        child = children.start("tessera.documents.pdf_child", "serve")
        try:
            child.channel.settimeout(START_S)
            children.receive(child.channel)
        except BaseException:
            child.end()
            raise
        return cls(child.process, child.channel)

    def open(self, document: PdfDocument) -> dict[str, Any]:
        if self.opened != (document.digest, document.passwords):
            self.opened = None
            with document.source.open() as file:
                question = {"ask": "open", "passwords": document.passwords[:MAX_PASSWORDS]}
                self.answer, _ = self.ask(question, document.limits.page_seconds, file.fileno())
            if "code" not in self.answer:
                self.opened = (document.digest, document.passwords)
        return self.answer

    def ask(self, question: dict[str, Any], seconds: float, file: int | None = None) -> tuple[dict[str, Any], int]:
        self.num_pages += question["ask"] == "read"
        self.channel.settimeout(seconds)
        children.send(self.channel, {**question, "seconds": seconds}, file)
        return children.receive(self.channel)


def _error(document: PdfDocument, code: str, number: int | None) -> DocumentError:
    place = document.name if number is None else f"{document.name}, page {number},"
    if code == "password_required":
        return DocumentError(locked_words(place, len(document.passwords)), code=code)
    return DocumentError(f"{place} {WORDS[code].format(seconds=document.limits.page_seconds)}", code=code)


_READERS = _Readers()


def open_pdf(name: str, digest: str, source: Source, limits: PageLimits, passwords: tuple[str, ...]) -> PdfDocument:
    """Open a PDF; the passwords are tried in order. Raises DocumentError."""
    document = PdfDocument(name, digest, source, limits, passwords)
    return PdfDocument(name, digest, source, limits, passwords, _READERS.count(document))
