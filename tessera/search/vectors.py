"""Vectors of pages: the model's last hidden state after a question for a summary, and stores that find the nearest.

Untrained, such vectors say which pages look alike (docs/search.md has what was measured); they are an addition to
words and no replacement. The default store is the index itself, searched exactly. The others are for more than a
million vectors, or for sharing; they hold a copy, and pages that the index has no more are passed over.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tessera.chat import ChatModel
from tessera.documents.page import Page
from tessera.documents.plan import Budget
from tessera.errors import MissingExtraError, UsageError
from tessera.messages import Image, Message
from tessera.search.query import Query, parse
from tessera.search.searcher import CANDIDATES, Searcher

ASK_IMAGE, ASK_TEXT = "Summary of the page above in one word:", "Summary of the sentence above in one word:"
BLOCK = 4096  # vectors in memory at once
SENT = 128  # vectors in one request to a server; Qdrant takes 32 MB, and JSON needs 20 bytes a number
Vector = npt.NDArray[np.float32]
Row = tuple[int, Vector]  # a page's id and its vector, of length 1


class VectorStore(ABC):
    """Keeps vectors by page id, and finds the nearest by cosine."""

    @abstractmethod
    def add(self, rows: Iterable[Row]) -> None:
        """Add vectors, or replace those of the same pages."""

    @abstractmethod
    def delete(self, pages: Sequence[int]) -> None:
        """Remove pages; those that are not there are passed over."""

    @abstractmethod
    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Return the nearest pages with their cosines, the nearest first."""


class SqliteVectors(VectorStore):
    """The index's own table, searched exactly, block by block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, rows: Iterable[Row]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
            ((page, vector.astype("<f2").tobytes()) for page, vector in rows),
        )

    def delete(self, pages: Sequence[int]) -> None:
        self._connection.executemany("DELETE FROM vectors WHERE page = ?", [(page,) for page in pages])

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        best: list[tuple[int, float]] = []
        for pages, block in self._blocks(len(vector)):
            scores = block @ vector
            chosen = np.argsort(-scores, kind="stable")[:count]
            best += [(pages[place], float(scores[place])) for place in chosen.tolist()]
            best = sorted(best, key=lambda each: (-each[1], each[0]))[:count]
        return best

    def _blocks(self, width: int) -> Iterator[tuple[list[int], Vector]]:
        rows = self._connection.execute("SELECT page, vector FROM vectors")
        while some := rows.fetchmany(BLOCK):
            data = b"".join(packed for _, packed in some)
            if len(data) != 2 * width * len(some):
                raise UsageError("the index's vectors are of another model; search with that one, or index anew.")
            yield [page for page, _ in some], np.frombuffer(data, "<f2").reshape(-1, width).astype(np.float32)


class FaissVectors(VectorStore):
    """faiss's exact inner product in memory, for more than a million; made from the index's own vectors."""

    def __init__(self, width: int) -> None:
        faiss = _import("faiss", "faiss")
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(width))

    def add(self, rows: Iterable[Row]) -> None:
        given = list(rows)
        if not given:
            return
        self.delete([page for page, _ in given])
        ids = np.array([page for page, _ in given], np.int64)
        self._index.add_with_ids(np.stack([vector for _, vector in given]).astype(np.float32), ids)

    def delete(self, pages: Sequence[int]) -> None:
        self._index.remove_ids(np.array(pages, np.int64))

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        scores, ids = self._index.search(vector[None].astype(np.float32), count)
        return [
            (int(page), float(score)) for page, score in zip(ids[0], scores[0], strict=True) if page >= 0
        ]  # -1: there are fewer


class QdrantVectors(VectorStore):
    """A collection of Qdrant: a server's by its URL, or in this process in a folder or ":memory:".

    Raises UsageError for a collection of another width.
    """

    def __init__(self, url: str, collection: str, width: int) -> None:
        qdrant = _import("qdrant_client", "qdrant")
        self._models, self._collection = qdrant.models, collection
        where = {"location": url} if url == ":memory:" else {"url": url} if "://" in url else {"path": url}
        self._client = qdrant.QdrantClient(**where)
        if not self._client.collection_exists(collection):
            params = self._models.VectorParams(size=width, distance=self._models.Distance.COSINE)
            self._client.create_collection(collection, vectors_config=params)
        found = self._client.get_collection(collection).config.params.vectors.size
        if found != width:
            self.close()
        _check_width(f"collection {collection}", found, width)

    def close(self) -> None:
        """Close the connection, or give the folder free."""
        self._client.close()

    def add(self, rows: Iterable[Row]) -> None:
        points = (self._models.PointStruct(id=page, vector=vector.tolist()) for page, vector in rows)
        while some := list(islice(points, SENT)):
            self._client.upsert(self._collection, some)

    def delete(self, pages: Sequence[int]) -> None:
        if pages:  # Qdrant refuses a request of none
            self._client.delete(self._collection, self._models.PointIdsList(points=list(pages)))

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        found = self._client.query_points(self._collection, query=vector.tolist(), limit=count)
        return [(int(point.id), float(point.score)) for point in found.points]


class PgVectors(VectorStore):
    """A table of PostgreSQL with the extension pgvector, over a DB-API connection of it, such as psycopg's.

    Every call commits, so that no lock is held between calls. Raises UsageError for a table of another width.
    """

    def __init__(self, connection: Any, table: str, width: int) -> None:
        if not table.isidentifier():
            raise UsageError(f"the table {table[:60]!r} must be named with letters, digits and underscores.")
        self._connection, self._table = connection, table
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        self._run(f"CREATE TABLE IF NOT EXISTS {table} (page BIGINT PRIMARY KEY, vector vector({int(width)}))")
        of_column = "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'vector'"
        ((found,),) = self._asked(of_column, table)
        _check_width(f"table {table}", found, width)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Yield a cursor, and end its transaction: after a failure too, which else would fail all that follow."""
        cursor = self._connection.cursor()
        try:
            yield cursor
        except BaseException:
            self._connection.rollback()
            raise
        finally:
            cursor.close()
        self._connection.commit()

    def _run(self, sql: str, *values: object) -> None:
        with self._cursor() as cursor:
            cursor.execute(sql, values)

    def _asked(self, sql: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with self._cursor() as cursor:
            cursor.execute(sql, values)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def add(self, rows: Iterable[Row]) -> None:
        upsert = "VALUES (%s, %s) ON CONFLICT (page) DO UPDATE SET vector = excluded.vector"
        with self._cursor() as cursor:
            values = ((page, str(vector.tolist())) for page, vector in rows)
            while some := list(islice(values, SENT)):
                cursor.executemany(f"INSERT INTO {self._table} {upsert}", some)

    def delete(self, pages: Sequence[int]) -> None:
        self._run(f"DELETE FROM {self._table} WHERE page = ANY(%s)", list(pages))

    def search(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        near = f"SELECT page, 1 - (vector <=> %s::vector) FROM {self._table} ORDER BY vector <=> %s::vector LIMIT %s"
        text = str(vector.tolist())
        return [(int(page), float(score)) for page, score in self._asked(near, text, text, count)]


def _check_width(where: str, found: int, width: int) -> None:
    if found != width:
        raise UsageError(f"the {where} holds vectors of {found} numbers, and these have {width}; name another.")


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"this store needs {module}: pip install 'tessera[{extra}]'") from error


# Vectors of a model --------------------------------------------------------------------------


def vector_of_page(model: ChatModel, page: Page, budget: Budget) -> Vector:
    """The vector of a page's image. Raises UsageError for a model that gives none."""
    return _vector(model, (Image(page.image(budget.image_side)), ASK_IMAGE))


def vector_of_text(model: ChatModel, text: str) -> Vector:
    """The vector of a query."""
    return _vector(model, (text, ASK_TEXT))


def maker_of_vectors(searcher: Searcher) -> str | None:
    """The fingerprint of the model that an index's vectors are of; None without any."""
    known = searcher.connection.execute("SELECT value FROM facts WHERE name = 'vectors'").fetchone()
    return None if known is None else str(known[0])


def nearest_pages(model: ChatModel, searcher: Searcher, text: str) -> Callable[[Query], list[tuple[int, float]]]:
    """Return what ranks an index's pages by the vector of this query. Raises UsageError without vectors of this model.

    The model is asked at once, so that its time is none of the search's.
    """
    maker = maker_of_vectors(searcher)
    if maker is None:
        raise UsageError(
            "the index has no vectors; make them with `tessera index FOLDER --vectors -m MODEL`.", param="vectors"
        )
    if maker != model.fingerprint:
        raise UsageError(
            "the index's vectors are of another model; search with that one (-m), or index anew.", param="vectors"
        )
    store, query = SqliteVectors(searcher.connection), parse(text)
    vector = vector_of_text(model, query.plain) if query.wanted else None
    return lambda query: [] if vector is None else store.search(vector, CANDIDATES)


def _vector(model: ChatModel, parts: tuple[str | Image, ...]) -> Vector:
    state = model.embed([Message("user", parts)])
    if state is None:
        raise UsageError("vectors need a model in this process; name one with -m, without --endpoint.")
    vector = np.array(state, np.float32)
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
