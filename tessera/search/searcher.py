"""Searching an index: ranked lists by text, by similar words, by file name and by vectors, fused by their ranks.

All words are wanted first; if too few pages have them all, any of them will do. Reciprocal rank fusion (Cormack 2009)
needs no common scale of scores. Work is bounded: so many pages are ranked by a list, and a search has a deadline.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tessera.errors import UsageError, counted
from tessera.search.found import Found, Hit, Part, fused
from tessera.search.match import NO_CONDITION, Condition, conditions, expression, resolve
from tessera.search.near import Frequencies, with_near
from tessera.search.packing import text_of
from tessera.search.query import Clause, Query, Term, parse
from tessera.search.snippets import Wanted, find_hits, snippet
from tessera.search.store import in_words, index_of, reading, root_of
from tessera.search.terms import tokens

CANDIDATES = 200  # pages of each list
MAX_LIMIT = 100
MAX_RANKED = 50_000  # matching pages that one list looks at
MAX_ANY, LEAST_ANY = 50_000, 500  # matching pages of all words together, when any of them will do
SECONDS = 10.0
STEPS = 20_000  # of SQLite's machine between two looks at the clock


@dataclass
class _Lists:
    """Ranked lists, and what is to be said of them."""

    parts: dict[int, list[Part]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, ranked: Sequence[tuple[int, float]], about: str = "") -> None:
        for rank, (page, score) in enumerate(ranked[:CANDIDATES], 1):
            self.parts.setdefault(page, []).append(Part(name, rank, score, about))


class Searcher:
    """An open index; use it as a context manager. One thread at a time may search."""

    def __init__(self, path: str | Path) -> None:
        self.file = index_of(Path(path))
        self.connection = reading(self.file)
        self.root = root_of(self.file, self.connection)
        self.connection.set_progress_handler(self._is_late, STEPS)
        self._ends_at = float("inf")

    def _is_late(self) -> bool:
        return time.monotonic() > self._ends_at

    @contextmanager
    def deadline(self) -> Iterator[None]:
        """Bound a question's time, and let all of it see one state of the index. Raises UsageError when it is over."""
        self._ends_at = time.monotonic() + SECONDS
        try:
            with in_words(self.file):
                self.connection.execute("BEGIN")  # also spares locking the file anew for each statement
                yield
        finally:
            self._ends_at = float("inf")
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def names(self) -> list[str]:
        """The fields that pages can be filtered by, beside the built-in ones."""
        rows = self.connection.execute(
            "WITH RECURSIVE each(name) AS (SELECT MIN(name) FROM fields UNION ALL SELECT (SELECT MIN(name) FROM "
            "fields WHERE name > each.name) FROM each WHERE name IS NOT NULL) SELECT name FROM each "
            "WHERE name IS NOT NULL"
        )
        return [name for (name,) in rows]

    def counts(self) -> dict[str, int]:
        """Files, pages and pages that cannot be read."""
        ask = self.connection.execute
        return {
            "files": ask("SELECT COUNT(*) FROM files").fetchone()[0],
            "pages": ask("SELECT COUNT(*) FROM pages").fetchone()[0],
        }

    def search(
        self, text: str, *, limit: int = 10, offset: int = 0,
        vectors: Callable[[Query], Sequence[tuple[int, float]]] | None = None,
    ) -> Found:  # fmt: skip
        """Answer a query, best pages first; `vectors` ranks pages by other means. Raises UsageError."""
        if not 1 <= limit <= MAX_LIMIT:
            raise UsageError(f"limit is {limit}; it must lie between 1 and {MAX_LIMIT}.", param="limit")
        if not 0 <= offset <= 3 * CANDIDATES:
            raise UsageError(f"offset is {offset}; it must lie between 0 and {3 * CANDIDATES}.", param="offset")
        began = time.monotonic()
        query = parse(text)
        with self.deadline():
            query = resolve(query, self.names() if query.filters else ())
            condition = conditions(query.filters)
            lists = _Lists()
            near: dict[str, list[str]] = {}
            if query.wanted:
                near = self._by_words(query, condition, limit, lists)
            else:
                lists.add("filters", self._by_filters(query, condition))
            if vectors is not None and query.wanted:
                ranked = vectors(query)[:CANDIDATES]
                fits = self._fitting([page for page, _ in ranked], query, condition)
                lists.add("vectors", [(page, score) for page, score in ranked if page in fits])
            order = sorted(lists.parts, key=lambda page: (-fused(lists.parts[page]), page))
            wanted = _wanted(query, near)
            shown = order[offset : offset + limit]
            hits = tuple(filter(None, (self._hit(page, lists.parts[page], wanted) for page in shown)))
        notes = [f"few pages or none have {word!r}, so {', '.join(like)} count as well" for word, like in near.items()]
        return Found(
            hits, len(order), len(order) > offset + limit, (*notes, *lists.notes), near, time.monotonic() - began
        )

    # Lists -----------------------------------------------------------------------------------

    def _by_words(self, query: Query, condition: Condition, limit: int, lists: _Lists) -> dict[str, list[str]]:
        frequency = Frequencies(self.connection)
        ranked = self._ranked(expression(query.wanted, query.excluded), condition, lists)
        if len(ranked) < limit and len(query.wanted) > 1:
            more = self._ranked(self._any_of(query.wanted, query, frequency), condition, lists)
            there = {page for page, _ in ranked}
            if any_new := [each for each in more if each[0] not in there]:
                all_of = counted(len(ranked), "page has", "pages have")
                some = f"{all_of} all of the words, and then come pages with some of them"
                lists.notes.append(some if ranked else "no page has all of the words; these have some of them")
                ranked += any_new
        lists.add("text", ranked)
        clauses, near = with_near(frequency, query)
        if near:
            like = self._ranked(expression(clauses, query.excluded), condition, lists)
            if not like and len(clauses) > 1:
                like = self._ranked(self._any_of(clauses, query, frequency), condition, lists)
            lists.add("similar", like, ", ".join(each for words in near.values() for each in words))
        self._by_name(query, condition, lists)
        return near

    def _any_of(self, clauses: Sequence[Clause], query: Query, frequency: Frequencies) -> str:
        """An expression for any of the clauses, the rarest first, as long as they are on so many pages together."""
        counted = []
        for clause in clauses:
            count = sum(frequency(term) for term in clause.options if isinstance(term, Term))
            counted.append((count, clause))
        counted.sort(key=lambda each: each[0])
        (pages,) = self.connection.execute("SELECT MAX(id) FROM pages").fetchone()
        chosen: list[Clause] = []
        left = min(MAX_ANY, max(pages // 2, LEAST_ANY))  # a word on most pages tells none of them apart
        for count, clause in counted:
            if chosen and count > left:
                break
            chosen.append(clause)
            left -= count
        return expression(chosen, query.excluded, every=False)

    def _ranked(self, words: str, condition: Condition, lists: _Lists) -> list[tuple[int, float]]:
        table, values = "words", condition.values
        if condition is not NO_CONDITION:  # pages that could not be read have no words
            table, words_only = "words CROSS JOIN pages p ON p.id = words.rowid", f"AND {condition.sql}"
        else:
            words_only, values = "", ()
        matching = f"FROM {table} WHERE words MATCH ? {words_only} LIMIT ?"
        rows = self.connection.execute(
            f"SELECT page, score FROM (SELECT words.rowid AS page, bm25(words, 1.0, 0.7) AS score {matching}) "
            "ORDER BY score, page LIMIT ?",
            (words, *values, MAX_RANKED, CANDIDATES),
        ).fetchall()
        if len(rows) == CANDIDATES:  # counted apart, since a window over the rows costs a third more
            ask = f"SELECT 1 {matching} OFFSET ?"
            note = (
                f"more than {MAX_RANKED:,} pages match, and the first of them were ranked; add a rarer word or a filter"
            )
            if note not in lists.notes and self.connection.execute(ask, (words, *values, 1, MAX_RANKED)).fetchone():
                lists.notes.append(note)
        return [(page, -score) for page, score in rows]

    def _by_name(self, query: Query, condition: Condition, lists: _Lists) -> None:
        """Add the files whose names have all of the words, or any: all their pages that are listed, or the first."""
        listed = list(lists.parts)
        content_of = dict(
            self.connection.execute(f"SELECT id, content FROM pages WHERE id IN ({_places(listed)})", listed).fetchall()
        )
        for every in (True, False):
            rows = self.connection.execute(
                "SELECT f.content, MIN(found.score), MIN(p.id) FROM (SELECT names.rowid AS file, bm25(names) AS score "
                "FROM names WHERE names MATCH ? ORDER BY rank LIMIT ?) AS found JOIN files f ON f.id = found.file "
                f"JOIN pages p ON p.content = f.content WHERE {condition.sql} GROUP BY f.content ORDER BY 2, 1",
                (expression(query.wanted, every=every), CANDIDATES, *condition.values),
            ).fetchall()
            if rows or len(query.wanted) == 1:
                break
        firsts = self._fitting([first for _, _, first in rows], query, condition)
        for rank, (content, score, first) in enumerate(rows, 1):
            pages = [page for page, its in content_of.items() if its == content] or [first] * (first in firsts)
            for page in pages:
                lists.parts.setdefault(page, []).append(Part("name", rank, -score))

    def _by_filters(self, query: Query, condition: Condition) -> list[tuple[int, float]]:
        sql, values = condition.sql, list(condition.values)
        for clause in query.excluded:
            sql += " AND p.id NOT IN (SELECT rowid FROM words WHERE words MATCH ?)"
            values.append(expression([clause]))
        rows = self.connection.execute(
            f"SELECT p.id FROM pages p WHERE {sql} ORDER BY p.content, p.member, p.number LIMIT ?",
            (*values, CANDIDATES),
        )
        return [(page, 0.0) for (page,) in rows]

    def _fitting(self, pages: Sequence[int], query: Query, condition: Condition) -> set[int]:
        """Those of some pages that the filters let through, and that have no excluded word."""
        places = _places(pages)
        rows = self.connection.execute(
            f"SELECT p.id FROM pages p WHERE p.id IN ({places}) AND {condition.sql}", (*pages, *condition.values)
        )
        fits = {page for (page,) in rows}
        for clause in query.excluded:
            rows = self.connection.execute(
                f"SELECT rowid FROM words WHERE words MATCH ? AND rowid IN ({places})", (expression([clause]), *pages)
            )
            fits -= {page for (page,) in rows}
        return fits

    # What is shown ---------------------------------------------------------------------------

    def _hit(self, page: int, parts: Sequence[Part], wanted: Sequence[Wanted]) -> Hit | None:
        row = self.connection.execute(
            "SELECT content, member, number, count, source, text, code, message FROM pages WHERE id = ?", (page,)
        ).fetchone()
        if row is None:
            return None  # removed meanwhile
        content, member, number, count, source, packed, code, message = row
        files = self.files_of(content, member)
        text = text_of(packed)
        pieces = snippet(text, find_hits(text, wanted))
        return Hit(
            page, files[0] if files else "", number, count, fused(parts), tuple(parts), tuple(pieces), source,
            tuple(files[1:]), code, message,
        )  # fmt: skip

    def files_of(self, content: int, member: str) -> list[str]:
        """The names of a content's files, with that of the member in them, at most 20."""
        rows = self.connection.execute("SELECT name FROM files WHERE content = ? ORDER BY name LIMIT 20", (content,))
        return [f"{name}/{member}" if member else name for (name,) in rows]

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _places(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def wanted_of(connection: sqlite3.Connection, text: str) -> list[Wanted]:
    """What a query's words hit on a page, near words included. Raises UsageError."""
    query = parse(text)
    return _wanted(query, with_near(Frequencies(connection), query)[1])


def _wanted(query: Query, near: Mapping[str, Sequence[str]]) -> list[Wanted]:
    found = [Wanted(term.tokens, term.prefix) for term in query.terms]
    return found + [Wanted(tuple(tokens(each))) for words in near.values() for each in words]
