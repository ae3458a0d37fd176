"""Bringing an index up to date with its folder: what is new is read, what moved keeps its pages, what is gone goes.

A file whose size and time are known is not opened. Of the others the digest decides. Every page is written as it is
read, so that after a kill the next run goes on with the pages that are missing.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tessera.documents.limits import PageLimits
from tessera.documents.markdown import has_good_text
from tessera.documents.page import Page, PageError
from tessera.documents.pages import digest_of, read_pages
from tessera.documents.sources import Source, find_sources, shown_path
from tessera.errors import DocumentError, UsageError
from tessera.search.pages import path_of
from tessera.search.store import COMPLETE, SIDES
from tessera.search.writer import Entry, Writer

THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 256, 40
MAX_FILES = 10_000_000
SHOW_S = 0.5
MAX_SAID = 100  # errors that a run's counts hold


@dataclass
class Counts:
    """What a run did. `errors` holds the first ones: name, page or None, code and sentence."""

    files: int = 0
    unchanged: int = 0
    added: int = 0
    moved: int = 0
    changed: int = 0
    removed: int = 0
    pages: int = 0  # read by this run
    pages_removed: int = 0
    failed: int = 0
    model_pages: int = 0
    records: int = 0
    vectors: int = 0
    seconds: float = 0.0
    errors: list[tuple[str, int | None, str, str]] = field(default_factory=list)

    def fail(self, name: str, number: int | None, code: str, message: str) -> None:
        self.failed += 1
        if len(self.errors) < MAX_SAID:
            self.errors.append((name, number, code, message))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How documents are read."""

    passwords: tuple[str, ...] = ()
    limits: PageLimits = field(default_factory=lambda: PageLimits(max_files=MAX_FILES))
    thumbnails: bool = True
    always: bool = False  # a model reads all pages, so all are wanted


class Scan:
    """One run over a folder; `index` is the file, which is no document."""

    def __init__(
        self, root: Path, index: Path, writer: Writer, reading: Reading, show: Callable[[Counts], None] = lambda c: None
    ) -> None:
        self.root, self.writer, self.reading = root, writer, reading
        self.counts = Counts()
        own = index.absolute()
        self._own = {own, *(own.with_name(own.name + side) for side in SIDES)}
        self._failed_folders: list[str] = []
        self._show, self._shown, self._began = show, 0.0, time.monotonic()

    def run(self) -> Counts:
        """Bring the index up to date. Raises UsageError if the folder is gone or suddenly empty."""
        if not self.root.is_dir():
            raise UsageError(f"{self.root} is no folder; name the folder of the documents.")
        connection = self.writer.connection
        connection.execute("CREATE TEMP TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        for source in find_sources([self.root], self.reading.limits):
            if isinstance(source, PageError):
                self._refuse(source)
            elif source.path.absolute() not in self._own:
                self._take(source)
            self.show()
        self._remove_gone()
        self.writer.commit()
        connection.execute("DROP TABLE seen")
        self.counts.seconds = time.monotonic() - self._began
        return self.counts

    def show(self, *, now: bool = False) -> None:
        """Tell the counts now and then."""
        if now or time.monotonic() - self._shown > SHOW_S:
            self._shown = time.monotonic()
            self.counts.seconds = self._shown - self._began
            self._show(self.counts)

    def _name(self, path: str | Path) -> str:
        """A path as the index has it: below the root, with slashes."""
        return os.path.relpath(path, shown_path(self.root)).replace(os.sep, "/")

    def _below(self, message: str) -> str:
        """A sentence with names below the root: the index may move, and its readers need not know where it lies."""
        return message.replace(f"{shown_path(self.root)}/", "")

    def _refuse(self, error: PageError) -> None:
        path, name, message = Path(error.document), self._name(error.document), self._below(error.message)
        self.counts.fail(name, None, error.code, message)
        if path.is_dir() or name == ".":
            self._failed_folders.append("" if name == "." else f"{name}/")
        else:
            self._see(name)
            self.writer.put_unread(name, (-1, -1), error.code, message)

    def _see(self, name: str) -> bool:
        """Note a name of this run; False if it was there, as names that are no UTF-8 may read alike."""
        self.counts.files += 1
        return bool(self.writer.connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount)

    def _take(self, source: Source) -> None:
        name = self._name(source.name)
        if not self._see(name):
            return self.counts.fail(name, None, "unsupported", f"{name} reads like another file's name; rename one.")
        known = self.writer.connection.execute(
            "SELECT size, mtime_ns, content, code, (SELECT state FROM contents WHERE id = content) FROM files "
            "WHERE name = ?", (name,),
        ).fetchone()  # fmt: skip
        if known is not None and known[:2] == source.stamp and (known[3] is not None or known[4] == COMPLETE):
            self.counts.unchanged += 1
            return
        try:
            digest = self._digest(source)
        except DocumentError as error:
            message = self._below(str(error))
            self.counts.fail(name, None, str(error.code), message)
            self.writer.put_unread(name, source.stamp, str(error.code), message)
            return
        content = self.writer.begin_content(digest)
        if known is None and self._moved(name, source.stamp, content):
            return
        if known is not None and known[2] == content and known[4] == COMPLETE:
            self.counts.unchanged += 1  # only its time is another
        elif known is not None and known[2] is not None and known[2] != content:
            self.counts.changed += 1
        elif known is None:
            self.counts.added += 1
        self.writer.put_file(name, source.stamp, content, None)
        self._read(source, name, content)

    def _digest(self, source: Source) -> str:
        with source.open() as file:
            source.limits.check_bytes(source.name, file.seek(0, os.SEEK_END))
            file.seek(0)
            return digest_of(file)

    def _moved(self, name: str, stamp: tuple[int, int], content: int) -> bool:
        """Rename the file of this content that is not there any more, if there is one whose pages are complete."""
        connection = self.writer.connection
        (state,) = connection.execute("SELECT state FROM contents WHERE id = ?", (content,)).fetchone()
        if state != COMPLETE:
            return False
        for number, before in connection.execute("SELECT id, name FROM files WHERE content = ?", (content,)).fetchall():
            if not os.path.lexists(path_of(self.root, before)):
                self.writer.rename_file(number, before, name, stamp)
                self.counts.moved += 1
                return True
        return False

    def _read(self, source: Source, name: str, content: int) -> None:
        """Read the pages of a content that are not there yet."""
        connection = self.writer.connection
        (state,) = connection.execute("SELECT state FROM contents WHERE id = ?", (content,)).fetchone()
        if state == COMPLETE:
            return
        rows = connection.execute("SELECT member, number FROM pages WHERE content = ?", (content,))
        there = set(rows.fetchall())
        for page in read_pages([source.path], passwords=self.reading.passwords, limits=source.limits):
            member = page.document[len(source.name) :].lstrip("/") if page.document != source.name else ""
            entry = self._failed(page, member) if isinstance(page, PageError) else self._entry(page, member)
            if (member, entry.number) in there:
                continue
            there.add((member, entry.number))
            self.writer.put_page(content, entry)
            if entry.source == "error":
                self.counts.fail(f"{name}/{member}" if member else name, entry.number or None,
                                 str(entry.code), str(entry.message))  # fmt: skip
            else:
                self.counts.pages += 1
            self.show()
        self.writer.complete_content(content)

    def _failed(self, error: PageError, member: str) -> Entry:
        number = error.number or 0  # 0: the whole document
        message = self._below(error.message)
        return Entry(number, 0, source="error", member=member, code=error.code, message=message)

    def _entry(self, page: Page, member: str) -> Entry:
        good = has_good_text(page)
        source = "blank" if page.blank else "text layer" if page.words else "none"
        return Entry(
            page.number, page.count, page.text, page.words, source, member,
            wanted=not page.blank and (self.reading.always or not good), size=page.size,
            thumbnail=thumbnail(page) if self.reading.thumbnails else None,
        )  # fmt: skip

    def _remove_gone(self) -> None:
        connection = self.writer.connection
        (left,) = connection.execute("SELECT COUNT(*) FROM files").fetchone()
        if left and not self.counts.files:
            self.writer.commit()
            raise UsageError(
                f"{self.root} holds no file any more, and its index knows {left:,}; if that is meant, delete the index."
            )
        for number, name in list(self._gone()):
            self.writer.remove_file(number, name)
            self.counts.removed += 1
        self.counts.pages_removed += self.writer.remove_unnamed()

    def _gone(self) -> Iterator[tuple[int, str]]:
        """Yield the files that were not found, but for those below a folder that could not be looked into."""
        rows = self.writer.connection.execute("SELECT id, name FROM files WHERE name NOT IN (SELECT name FROM seen)")
        for number, name in rows:
            if not any(name.startswith(folder) for folder in self._failed_folders):
                yield number, name


def thumbnail(page: Page) -> bytes | None:
    """A small image of a page as WebP; None if it cannot be rendered."""
    try:
        image = page.image(THUMBNAIL_SIDE)
    except DocumentError:
        return None
    file = io.BytesIO()
    image.save(file, "WEBP", quality=THUMBNAIL_QUALITY, method=2)
    return file.getvalue()
