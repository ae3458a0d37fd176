"""Reading pages: paths in, pages out in order, one at a time; what cannot be read is a row with a code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from tessera.documents.archives import Zip
from tessera.documents.kinds import Kind, kind_of
from tessera.documents.letters import set_text
from tessera.documents.limits import PageLimits
from tessera.documents.mail import Mail
from tessera.documents.office import printed
from tessera.documents.page import Page, PageError
from tessera.documents.pdf import open_pdf
from tessera.documents.pictures import open_image
from tessera.documents.ranges import check_ranges, page_ranges
from tessera.documents.sources import Source, find_sources
from tessera.errors import DocumentError, counted

MAX_NESTED = 2  # archives and mails in each other
MAX_FAILED = 5  # pages in a row that hang or crash; each costs its whole deadline, so the others are not tried
REFUSALS = {
    "locked_office": ("password_required", "is an office document with a password; save it without one."),
    "outlook": ("unsupported", "is a message of Outlook's own format; save it as .eml or PDF."),
    "unknown": ("unsupported", "is no PDF, image, office document, mail or zip; convert it to PDF."),
}


class Document(Protocol):
    """A document that opens: its pages are read by number."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def count(self) -> int: ...
    def page(self, number: int) -> Page: ...


def read_pages(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    pages: str | None = None,
    passwords: Sequence[str] = (),
    limits: PageLimits | None = None,
    skip: Collection[Path] = (),
) -> Iterator[Page | PageError]:
    """Read the pages of files, folders and patterns, of archives and mails in them, in order and one at a time.

    `pages` selects some of each document, such as "1-5,8,-1". `passwords` are tried in order. Files of
    `skip` are left out of folders and patterns. What cannot be read is a
    PageError with a stable code, and reading goes on after it. Raises UsageError for a selection that is none.
    """
    check_ranges(pages)
    reader = _Reader(pages, tuple(passwords))
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return reader.read(find_sources(given, limits or PageLimits(), skip), 0)


class _Reader:
    def __init__(self, pages: str | None, passwords: tuple[str, ...]) -> None:
        self._pages = pages
        self._passwords = passwords

    def read(self, sources: Iterable[Source | PageError], depth: int) -> Iterator[Page | PageError]:
        for source in sources:
            if isinstance(source, PageError):
                yield source
                continue
            digest = None
            try:
                with source.open() as file:
                    source.limits.check_bytes(source.name, file.seek(0, os.SEEK_END))
                    file.seek(0)
                    digest = digest_of(file)
                    file.seek(0)
                    kind = kind_of(file)
                yield from self._document(source, kind, digest, depth)
            except DocumentError as error:
                yield PageError(source.name, None, str(error.code), str(error), digest)

    def _document(self, source: Source, kind: Kind, digest: str, depth: int) -> Iterator[Page | PageError]:
        limits = source.limits
        if kind in REFUSALS:
            code, words = REFUSALS[kind]
            raise DocumentError(f"{source.name} {words}", code=code)
        if kind in ("zip", "mail"):
            if depth >= MAX_NESTED:
                raise DocumentError(
                    f"{source.name} is an archive in an archive in an archive; unpack the outer one.",
                    code="too_large",
                )
            archive = Zip(source, self._passwords) if kind == "zip" else Mail(source)
            if isinstance(archive, Mail) and archive.text:
                yield from self._selected(set_text(source.name, digest, archive.text, limits), limits)
            else:
                yield from self.read(archive.members(), depth + 1)
        elif kind in ("image", "tiff"):
            yield from self._selected(open_image(source.name, digest, source, limits, is_tiff=kind == "tiff"), limits)
        else:
            pdf = printed(source, digest) if kind == "office" else source
            yield from self._selected(open_pdf(source.name, digest, pdf, limits, self._passwords), limits)

    def _selected(self, document: Document, limits: PageLimits) -> Iterator[Page | PageError]:
        numbers = page_ranges(self._pages or "1-", document.count)
        if not numbers:
            raise DocumentError(
                f"{document.name} has {counted(document.count, 'page')}, and none of them is among "
                f"{self._pages}; name others (pages).",
                code="no_such_page",
            )
        limits.check_pages(document.name, len(numbers), document.count)
        failed = 0
        for number in numbers:
            try:
                page = document.page(number)
            except DocumentError as error:
                yield PageError(document.name, number, str(error.code), str(error), document.digest)
                failed = failed + 1 if error.code in ("timeout", "crashed") else 0
                if failed == MAX_FAILED:
                    raise DocumentError(
                        f"{document.name}: {failed} pages in a row failed, so those after page {number} were not "
                        "tried; print it to a new PDF.",
                        code=str(error.code),
                    ) from error
            else:
                failed = 0
                yield page


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of a file from where it stands."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
