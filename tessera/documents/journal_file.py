"""The file of a journal: its tables, its identity, leases that come back, and SQLite's failures in our words."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessera.documents.owners import is_alive, others_of
from tessera.errors import DiskFullError, TesseraError, UsageError, lacks_room, shown

APPLICATION, VERSION = 0x54534A4C, 1  # SQLite's application_id: "TSJL"
BUSY_S = 120.0  # the longest wait for another process that writes
WAITING, RUNNING, DONE, FAILED = range(4)
HALVES = re.compile(r"[\ud800-\udfff]")
TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, payload TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0,
    review INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, blame REAL NOT NULL DEFAULT 0,
    crowd INTEGER NOT NULL DEFAULT 0, owner TEXT, deadline REAL, result TEXT);
CREATE INDEX by_state ON items (state, review);
CREATE INDEX by_blame ON items (blame, number) WHERE state = {WAITING};
CREATE INDEX by_owner ON items (owner, deadline) WHERE state = {RUNNING};
"""


def opened(path: Path, identity: Mapping[str, str], *, force: bool) -> sqlite3.Connection:
    """Open or begin the journal of this identity; with `force` begin it anew. Raises UsageError."""
    if force:
        remove(path)
    connection = connect(path)
    try:
        check(path, connection, identity)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the journal {path} would be in a folder that is not there; make it, or name another.")
    with in_words(path):
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(path)
    try:
        yield connection
    finally:
        connection.close()


def check(path: Path, connection: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    """Write the tables and the identity, or compare the identity with the one that is there."""
    with in_words(path):
        connection.execute("BEGIN IMMEDIATE")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if not tables:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            facts = {**identity, "created": str(int(time.time()))}
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            connection.execute("COMMIT")
            return
        known = dict(connection.execute("SELECT name, value FROM facts")) if application == APPLICATION else {}
        connection.execute("COMMIT")
    if application != APPLICATION or version != VERSION:
        raise UsageError(f"{path} is no journal of this version of Tessera; name another file.")
    known.pop("created", None)
    for name in sorted(known.keys() | identity.keys()):
        if known.get(name) != identity.get(name):
            raise UsageError(
                f"the journal {path} belongs to another job: its {name} is {_short(known.get(name))}, and now it is "
                f"{_short(identity.get(name))}; name another journal, or give --force (force=True in Python) to begin "
                "anew without its results."
            )


def _short(value: str | None) -> str:
    return "not given" if value is None else shown(value)


def files_of(path: Path) -> list[Path]:
    """The files that a journal consists of, SQLite's own beside it."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def remove(path: Path) -> None:
    """Delete a journal that nobody works on."""
    if path.exists() and others_of(path):
        raise UsageError(f"the journal {path} is in use by another process; end that, or name another journal.")
    if path.exists():
        with reader(path) as connection, in_words(path):
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION:
            raise UsageError(f"{path} is no journal, so it is not overwritten; name another file.")
    for each in files_of(path):
        each.unlink(missing_ok=True)


def waiting_items(connection: sqlite3.Connection, path: Path, owner: str, count: int) -> list[Any]:
    """Return the next items: number, id, payload, attempts, blame and crowd; suspects come last."""
    query = (
        "SELECT number, id, payload, attempts, blame, crowd FROM items "
        f"WHERE state = {WAITING} ORDER BY blame, number LIMIT ?"
    )
    rows = connection.execute(query, (count,)).fetchall()
    if not rows and return_leases(connection, path, owner):
        rows = connection.execute(query, (count,)).fetchall()
    return rows


def return_leases(connection: sqlite3.Connection, path: Path, owner: str) -> int:
    """Make the items of other, dead workers wait again, as suspects, and those whose lease is over."""
    returned = 0
    for other, crowd in connection.execute(
        f"SELECT owner, COUNT(*) FROM items WHERE state = {RUNNING} AND owner != ? GROUP BY owner", (owner,)
    ).fetchall():
        alive = is_alive(path, other)
        blame = "" if alive else f", blame = blame + {1 / crowd}, crowd = {crowd}"
        returned += connection.execute(
            f"UPDATE items SET state = {WAITING}, owner = NULL{blame} "
            f"WHERE state = {RUNNING} AND owner = ? AND (? OR deadline < ?)",
            (other, not alive, time.time()),
        ).rowcount
    return returned


def storable(text: str) -> str:
    """Return a text that SQLite can keep: half a surrogate pair, which JSON may hold, is no character of UTF-8."""
    return HALVES.sub("\ufffd", text)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn SQLite's failures into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if lacks_room(error):
            raise DiskFullError(
                f"the journal {path} could not be written: no space is left, or the limit on a file's size (ulimit -f) "
                "is reached; free some, or raise it."
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UsageError(
                f"the journal {path} was locked by another process for {BUSY_S:g} s; end that one."
            ) from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise UsageError(f"{path} is no journal, or a damaged one; name another file.") from error
        raise TesseraError(
            f"the journal {path} cannot be used ({str(error) or 'no reason given'}); check its folder and permissions."
        ) from error
