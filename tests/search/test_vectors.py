"""Vectors: every store finds what a plain product finds, and the model's state is the one its next token comes from."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera.documents.extraction import Options
from tessera.errors import UsageError
from tessera.llm import LLM
from tessera.messages import Image, Message
from tessera.sampling import SamplingParams
from tessera.search.enrich import Enrichment, Reader
from tessera.search.scan import Counts
from tessera.search.searcher import Searcher
from tessera.search.store import NAME, writing
from tessera.search.vectors import FaissVectors, PgVectors, QdrantVectors, SqliteVectors, VectorStore, nearest_pages
from tessera.search.writer import Writer
from tests.documents.fakes import Scripted
from tests.search.archive import ACME, BAKERY, LETTER, pdf, places, put, scanned
from tests.server.conftest import DEMO

WIDTH = 16


class Cursor:
    """pgvector's few statements in Python: it parses what is sent, and computes cosine distances itself."""

    def __init__(self, rows: dict[int, list[float]]) -> None:
        self.rows = rows
        self.found: list[tuple[int, ...] | tuple[int, float]] = []

    def executemany(self, sql: str, values: Any) -> None:
        assert sql.startswith("INSERT")
        for page, vector in values:
            self.rows[page] = json.loads(vector)

    def execute(self, sql: str, values: Any) -> None:
        if sql.startswith("DELETE"):
            for page in values[0]:
                self.rows.pop(page, None)
        elif sql.startswith("SELECT atttypmod"):
            self.found = [(WIDTH,)]
        elif sql.startswith("SELECT"):
            wanted = np.array(json.loads(values[0]))
            near = {page: float(wanted @ row / np.linalg.norm(row)) for page, row in self.rows.items()}
            self.found = sorted(near.items(), key=lambda each: -each[1])[: values[2]]

    def fetchall(self) -> list[tuple[int, ...] | tuple[int, float]]:
        return self.found

    def close(self) -> None: ...


class Postgres:
    """A connection; psycopg's opens a transaction by itself, which holds locks until `commit`."""

    def __init__(self) -> None:
        self.rows: dict[int, list[float]] = {}
        self.open = 0

    def cursor(self) -> Cursor:
        self.open += 1
        return Cursor(self.rows)

    def commit(self) -> None:
        self.open = 0


@pytest.fixture(params=["sqlite", "faiss", "qdrant", "pgvector"])
def store(request: pytest.FixtureRequest) -> Iterator[VectorStore]:
    if request.param == "sqlite":
        with sqlite3.connect(":memory:") as connection:
            connection.execute("CREATE TABLE vectors (page INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
            yield SqliteVectors(connection)
        connection.close()
    elif request.param == "faiss":
        pytest.importorskip("faiss", reason="faiss-cpu is not installed")
        yield FaissVectors(WIDTH)
    elif request.param == "qdrant":
        pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
        yield QdrantVectors(":memory:", "pages", WIDTH)
    else:
        yield PgVectors(Postgres(), "pages", WIDTH)


def test_a_store_finds_the_nearest(store: VectorStore) -> None:
    drawn = np.random.default_rng(3).normal(size=(200, WIDTH))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    store.add([(7 * place + 1, vector) for place, vector in enumerate(vectors)])
    store.add([(8, -vectors[1])])  # replaced
    store.delete([1, 999_999])
    store.add([])
    store.delete([])
    vectors[1] = -vectors[1]
    wanted = vectors[50] + 0.1 * vectors[60]
    wanted = wanted / np.linalg.norm(wanted)
    right = [place for place in np.argsort(-(vectors @ wanted)).tolist() if place != 0][:5]
    found = store.search(wanted, 5)
    assert [page for page, _ in found] == [7 * place + 1 for place in right]
    assert [score for _, score in found] == pytest.approx([float(vectors[place] @ wanted) for place in right], abs=2e-3)


def test_pgvector_holds_no_lock_between_calls_and_refuses_another_width() -> None:
    connection = Postgres()
    store = PgVectors(connection, "pages", WIDTH)
    assert connection.open == 0
    store.add([(1, np.ones(WIDTH, np.float32))])
    store.search(np.ones(WIDTH, np.float32), 1)
    assert connection.open == 0
    with pytest.raises(UsageError, match="the table pages holds vectors of 16 numbers, and these have 32"):
        PgVectors(connection, "pages", 32)


@pytest.mark.skipif(not os.environ.get("TESSERA_TEST_POSTGRES"), reason="TESSERA_TEST_POSTGRES names no database")
def test_pgvector_itself_finds_the_nearest() -> None:
    psycopg = pytest.importorskip("psycopg")
    uri = os.environ["TESSERA_TEST_POSTGRES"]
    with psycopg.connect(uri) as connection, psycopg.connect(uri) as other:
        other.execute("SET lock_timeout = '5s'")
        connection.execute("DROP TABLE IF EXISTS tessera_test_pages")
        test_a_store_finds_the_nearest(PgVectors(connection, "tessera_test_pages", WIDTH))
        assert len(PgVectors(other, "tessera_test_pages", WIDTH).search(np.ones(WIDTH, np.float32), 1000)) == 199
        with pytest.raises(UsageError, match="holds vectors of 16 numbers"):
            PgVectors(other, "tessera_test_pages", WIDTH + 1)
        connection.execute("DROP TABLE tessera_test_pages")


def test_qdrant_in_a_folder_keeps_its_vectors(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    store = QdrantVectors(str(tmp_path / "qdrant"), "pages", WIDTH)
    store.add((number, np.full(WIDTH, number, np.float32)) for number in range(1, 301))
    store.close()
    with pytest.raises(UsageError, match="holds vectors of 16 numbers, and these have 8"):
        QdrantVectors(str(tmp_path / "qdrant"), "pages", 8)


class Embedding(Scripted):
    """Its vector of a text counts letters; of an image it is the first one of the list, and so on."""

    def __init__(self, images: list[list[float]]) -> None:
        super().__init__(lambda images, params: "")
        self.images = images

    def embed(self, messages: Any) -> list[float]:
        if isinstance(messages[0].content[0], Image):
            return self.images.pop(0)
        text = str(messages[0].content[0])
        return [float(text.count(letter)) for letter in "abc"]


def test_pages_are_ranked_by_vectors_beside_words(tmp_path: Path) -> None:
    put(tmp_path, acme=pdf(ACME), bakery=pdf(BAKERY), letter=pdf(LETTER))
    scanned(tmp_path)
    model = Embedding([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    with Searcher(tmp_path) as searcher, pytest.raises(UsageError, match="the index has no vectors"):
        nearest_pages(model, searcher, "acme")
    with writing(tmp_path / NAME, tmp_path) as connection:
        counts = Counts()
        reader = Reader(model, "scripted", Options())
        job = Enrichment(tmp_path, Writer(connection), tmp_path / "journal", reader, counts)
        job.embed()
        assert counts.vectors == 3
        job.embed()
        assert counts.vectors == 3  # all have one
    with Searcher(tmp_path) as searcher:
        found = searcher.search("ccc -croissants", vectors=nearest_pages(model, searcher, "ccc -croissants"))
        assert [hit.file for hit in found.hits] == ["letter.pdf", "acme.pdf"]  # the bakery's page has croissants
        assert [part.list for part in found.hits[0].parts] == ["vectors"]
        assert found.hits[0].parts[0].score == pytest.approx(1.0)
    assert places(tmp_path, "croissants") == [("bakery.pdf", 1)]
    (tmp_path / "letter.pdf").unlink()
    scanned(tmp_path)
    with Searcher(tmp_path) as searcher:
        assert searcher.connection.execute("SELECT COUNT(*) FROM vectors").fetchone() == (2,)


def test_vectors_are_kept_in_half_precision() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE vectors (page INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
        SqliteVectors(connection).add([(1, np.array([0.5, -0.25], np.float32))])
        (packed,) = connection.execute("SELECT vector FROM vectors").fetchone()
        assert struct.unpack("<2e", packed) == (0.5, -0.25)
        with pytest.raises(UsageError, match="are of another model"):
            SqliteVectors(connection).search(np.zeros(3, np.float32), 1)
    connection.close()


def test_the_kept_state_is_the_one_that_the_next_token_comes_from() -> None:
    """The output layer over the state must choose what the engine chose; also when the prefix comes from the cache."""
    with LLM("nano", max_num_seqs=2, kv_cache_bytes=2**25) as llm:
        messages = [Message("user", (Image(DEMO / "receipt.png"), "What is the total?"))]
        state = llm.embed(messages)
        again = llm.embed(messages)
        reply = llm.chat(messages, SamplingParams(max_tokens=1))
        chosen = int(llm.model.logits(torch.tensor(state)[None])[0].argmax())
        assert chosen == reply.token_ids[0]
        assert again == pytest.approx(state, abs=1e-4)
        assert llm.embed([Message("user", ("another text",))]) != state
