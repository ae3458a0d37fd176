"""Writes an index: files, contents, and pages with all that is looked up by them, in transactions of bounded size."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tessera.documents.page import Word
from tessera.documents.readings import dates_of, numbers_of
from tessera.search.packing import kept_text, packed_boxes, packed_text, text_of
from tessera.search.store import COMPLETE
from tessera.search.terms import folded, terms

GROUP, GROUP_BYTES, GROUP_S = 500, 16 << 20, 2.0  # pages committed together, their bytes, and their longest wait
MAX_KNOWN = 400_000  # words that are known to be among the terms
MAX_FIELD = 500  # characters of a field's text
NOT_READ = "not_read"  # the code of a page that a model could not read, or not well
NO_DESCRIPTION = "-"  # of a page that a model was asked to describe, in vain


@dataclass(frozen=True)
class Entry:
    """A page as it is indexed. `source` says where its text comes from; `wanted` that a model could tell more."""

    number: int
    count: int
    text: str = ""
    words: tuple[Word, ...] = ()
    source: str = "text layer"  # or "model", "blank", "none", "error"
    member: str = ""
    wanted: bool = False
    size: tuple[float, float] | None = None
    thumbnail: bytes | None = None
    code: str | None = None
    message: str | None = None


class Writer:
    """Writes through one connection; call `commit` at the end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._known: set[str] = set()
        self._pending, self._bytes, self._since = 0, 0, 0.0

    # Files and contents ----------------------------------------------------------------------

    def put_file(self, name: str, stamp: tuple[int, int], content: int | None, error: tuple[str, str] | None) -> None:
        """Add a file or update it; `error` says why its content is not known."""
        self.begin()
        found = self.connection.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone()
        code, message = error or (None, None)
        self.connection.execute(
            "INSERT INTO files (name, content, size, mtime_ns, code, message) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET content = excluded.content, size = excluded.size, "
            "mtime_ns = excluded.mtime_ns, code = excluded.code, message = excluded.message",
            (name, content, *stamp, code, message),
        )
        if found is None:
            (number,) = self.connection.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone()
            self.connection.execute("INSERT INTO names (rowid, name) VALUES (?, ?)", (number, name))

    def put_unread(self, name: str, stamp: tuple[int, int], code: str, message: str) -> None:
        """Add a file whose bytes cannot be read, or update it; its one page is what the code is found by."""
        content = self.begin_content(f"unread: {name}")  # stays partial, so nothing is asked of it
        self.put_file(name, stamp, content, (code, message))
        self._remove_pages(content)
        self.put_page(content, Entry(0, 0, source="error", code=code, message=message))

    def rename_file(self, number: int, before: str, name: str, stamp: tuple[int, int]) -> None:
        """Note that a file was moved; its pages stay."""
        self.begin()
        self._forget_name(number, before)
        self.connection.execute(
            "UPDATE files SET name = ?, size = ?, mtime_ns = ? WHERE id = ?", (name, *stamp, number)
        )
        self.connection.execute("INSERT INTO names (rowid, name) VALUES (?, ?)", (number, name))

    def remove_file(self, number: int, name: str) -> None:
        self.begin()
        self._forget_name(number, name)
        self.connection.execute("DELETE FROM files WHERE id = ?", (number,))

    def _forget_name(self, number: int, name: str) -> None:
        self.connection.execute("INSERT INTO names (names, rowid, name) VALUES ('delete', ?, ?)", (number, name))

    def forget_errors(self) -> int:
        """Have all that could not be read tried again, by a model too; returns the number of pages removed."""
        self.begin()
        again = "UPDATE pages SET wanted = 1, code = NULL, message = NULL WHERE code = ? AND source != 'error'"
        self.connection.execute(again, (NOT_READ,))
        self.connection.execute("UPDATE pages SET description = '' WHERE description = ?", (NO_DESCRIPTION,))
        failed = "UPDATE contents SET preset = NULL WHERE id IN (SELECT content FROM records WHERE code IS NOT NULL)"
        self.connection.execute(failed)
        self.connection.execute(
            "UPDATE contents SET state = 0 WHERE id IN (SELECT content FROM pages WHERE source = 'error')"
        )
        self.connection.execute("UPDATE files SET size = NULL WHERE code IS NOT NULL")
        removed = self.connection.execute("DELETE FROM pages WHERE source = 'error'").rowcount
        self.commit()
        return removed

    def begin_content(self, digest: str) -> int:
        """Return the content of a digest, a new one if it is not known."""
        self.begin()
        self.connection.execute("INSERT INTO contents (digest) VALUES (?) ON CONFLICT DO NOTHING", (digest,))
        return int(self.connection.execute("SELECT id FROM contents WHERE digest = ?", (digest,)).fetchone()[0])

    def complete_content(self, content: int) -> None:
        self.begin()
        self.connection.execute(f"UPDATE contents SET state = {COMPLETE} WHERE id = ?", (content,))

    def remove_unnamed(self) -> int:
        """Remove the contents that no file names any more, with their pages; returns the number of pages."""
        removed = 0
        unnamed = (
            "SELECT id FROM contents WHERE NOT EXISTS (SELECT 1 FROM files WHERE content = contents.id) LIMIT 1000"
        )
        while found := self.connection.execute(unnamed).fetchall():
            for content in found:
                removed += self._remove_pages(content[0])
                self.begin()
                for table in ("records", "fields"):
                    self.connection.execute(f"DELETE FROM {table} WHERE content = ?", content)
                self.connection.execute("DELETE FROM contents WHERE id = ?", content)
        return removed

    def _remove_pages(self, content: int) -> int:
        removed = 0
        while True:
            some = self.connection.execute("SELECT id FROM pages WHERE content = ? LIMIT 100", (content,)).fetchall()
            for (page,) in some:
                self.begin()
                self._unindex(page)
                for table in ("thumbnails", "vectors"):
                    self.connection.execute(f"DELETE FROM {table} WHERE page = ?", (page,))
                self.connection.execute("DELETE FROM pages WHERE id = ?", (page,))
                self.count(1000)
            removed += len(some)
            if not some:
                return removed

    # Pages -----------------------------------------------------------------------------------

    def put_page(self, content: int, entry: Entry) -> int:
        """Add a page that is not there yet; returns its id."""
        self.begin()
        kept = kept_text(entry.text)
        text, boxes = packed_text(kept) if kept else None, packed_boxes(entry.words)
        width, height = entry.size or (None, None)
        cursor = self.connection.execute(
            "INSERT INTO pages (content, member, number, count, source, wanted, width, height, text, boxes, code, "
            "message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (content, entry.member, entry.number, entry.count, entry.source, entry.wanted, width, height, text, boxes,
             entry.code, entry.message),
        )  # fmt: skip
        page = int(cursor.lastrowid or 0)
        if entry.thumbnail is not None:
            self.connection.execute("INSERT INTO thumbnails VALUES (?, ?)", (page, entry.thumbnail))
        if kept:
            self._index(page, kept, "")
        self.count(len(text or b"") + len(boxes or b"") + len(entry.thumbnail or b""))
        return page

    def put_text(self, page: int, text: str, source: str, problem: str | None = None) -> None:
        """Replace a page's text by what a model read; word boxes of another text go."""
        self.begin()
        self._unindex(page)
        text = kept_text(text)
        self.connection.execute(
            "UPDATE pages SET text = ?, boxes = NULL, source = ? WHERE id = ?",
            (packed_text(text) if text else None, source, page),
        )
        self.note_problem(page, problem)
        self._reindex(page)

    def note_problem(self, page: int, problem: str | None) -> None:
        """Note that a model was asked for a page's text, and what is wrong with its answer."""
        self.begin()
        self.connection.execute(
            "UPDATE pages SET wanted = 0, code = ?, message = ? WHERE id = ?", (problem and NOT_READ, problem, page)
        )

    def put_description(self, page: int, description: str) -> None:
        self.begin()
        self._unindex(page)
        self.connection.execute("UPDATE pages SET description = ? WHERE id = ?", (kept_text(description), page))
        self._reindex(page)

    def _row(self, page: int) -> tuple[str, str] | None:
        """The two texts of a page as they are in the full-text table; None if it is not there."""
        row = self.connection.execute("SELECT text, description FROM pages WHERE id = ?", (page,)).fetchone()
        if row is None:  # although its number was just read from the same table
            raise sqlite3.DatabaseError(f"page {page} is not where its number is")
        text, description = row
        return (text_of(text), description) if text is not None or description else None

    def _index(self, page: int, text: str, about: str) -> None:
        self.connection.execute("INSERT INTO words (rowid, text, about) VALUES (?, ?, ?)", (page, text, about))
        new = (terms(text) | terms(about)) - self._known
        for term in new:
            cursor = self.connection.execute("INSERT INTO terms (term) VALUES (?) ON CONFLICT DO NOTHING", (term,))
            if cursor.rowcount:
                self.connection.execute("INSERT INTO trigrams (rowid, term) VALUES (?, ?)", (cursor.lastrowid, term))
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        self._known |= new

    def _unindex(self, page: int) -> None:
        if (row := self._row(page)) is not None:
            self.connection.execute(
                "INSERT INTO words (words, rowid, text, about) VALUES ('delete', ?, ?, ?)", (page, *row)
            )

    def _reindex(self, page: int) -> None:
        if (row := self._row(page)) is not None:
            self._index(page, *row)
        self.count(1000)

    # Fields ----------------------------------------------------------------------------------

    def put_record(
        self, content: int, member: str, preset: str, value: Mapping[str, Any] | None,
        error: tuple[str, str] | None = None, *, pages: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Replace a document's fields; `pages` has the page of each path."""
        self.begin()
        self.connection.execute("DELETE FROM fields WHERE content = ? AND member = ?", (content, member))
        code, message = error or (None, None)
        told = None if value is None else json.dumps(value, ensure_ascii=False, default=str)
        self.connection.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", (content, member, preset, told, code, message)
        )
        rows = [
            (content, member, name, (pages or {}).get(path), *_typed(leaf)) for path, name, leaf in leaves(value or {})
        ]
        self.connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.count(200 * len(rows))

    def note_preset(self, content: int, preset: str) -> None:
        """Note that all documents of a content were read with a preset."""
        self.begin()
        self.connection.execute("UPDATE contents SET preset = ? WHERE id = ?", (preset, content))

    # Transactions ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a transaction, unless one is open."""
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")
            self._pending, self._bytes, self._since = 0, 0, time.monotonic()

    def count(self, size: int) -> None:
        """Count a row of about so many bytes, and commit if there are enough."""
        self._pending, self._bytes = self._pending + 1, self._bytes + size
        is_late = time.monotonic() - self._since > GROUP_S
        if self._pending >= GROUP or self._bytes >= GROUP_BYTES or is_late:
            self.commit()

    def commit(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")


def leaves(value: Any, path: str = "", name: str = "") -> Iterable[tuple[str, str, Any]]:
    """Yield a record's leaves: their path such as "items[2].amount", their name such as "items.amount", the value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{place}]", name)
    elif value not in (None, ""):
        yield path, name, value


def _typed(value: Any) -> tuple[str, float | None, str | None]:
    """A value as text, as a number and as a day; those it cannot be are None."""
    text = str(value)[:MAX_FIELD]
    if isinstance(value, bool):
        return text.lower(), None, None
    number = Decimal(str(value)) if isinstance(value, int | float) else _only(numbers_of(text))
    day = None if isinstance(value, int | float) else _only(dates_of(text))
    return folded(text), None if number is None else float(number), None if day is None else day.isoformat()


def _only(found: frozenset[Any]) -> Any:
    """The reading of a text if it has just one; records hold ISO dates and plain numbers."""
    return next(iter(found)) if len(found) == 1 else None
