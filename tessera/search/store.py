"""The index's file: its tables, and opening it to write or to read.

A content is known by the digest of its bytes and has pages; files name contents. So a moved or copied file keeps the
pages of its content. Full text is in FTS5 tables without a copy of it (`content=''`): the text itself is kept
compressed, and SQLite needs it again only to remove a page. Typing errors and parts of numbers are looked up by
trigrams among the distinct words of all pages, which are far fewer than the pages' own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tessera.errors import DiskFullError, FileBusyError, UsageError

NAME = ".tessera-index.db"  # in the folder that it indexes; names that begin with a dot are no documents
APPLICATION, VERSION = 0x54535358, 1  # SQLite's application_id: "TSSX"
BUSY_S = 60.0  # that a writer waits for readers
READING_BUSY_S = 10.0  # that a reader waits for whoever holds the whole file; a search takes no longer either
CACHE_KIB = 65_536  # of SQLite's page cache
TOKENS = "tokenize = 'unicode61 remove_diacritics 2'"
PARTIAL, COMPLETE = 0, 1  # states of a content
SIDES = ("-wal", "-shm", ".lock", ".journal", ".vectors")  # files beside an index
TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, state INTEGER NOT NULL DEFAULT {PARTIAL}, preset TEXT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, content INTEGER, size INTEGER, mtime_ns INTEGER,
    code TEXT, message TEXT);
CREATE INDEX files_by_content ON files (content);
CREATE TABLE pages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL, member TEXT NOT NULL, number INTEGER NOT NULL,
    count INTEGER NOT NULL, source TEXT NOT NULL, wanted INTEGER NOT NULL, width REAL, height REAL,
    text BLOB, boxes BLOB, description TEXT NOT NULL DEFAULT '', code TEXT, message TEXT,
    UNIQUE (content, member, number));
CREATE INDEX wanted_pages ON pages (content) WHERE wanted;
CREATE TABLE thumbnails (page INTEGER PRIMARY KEY, webp BLOB NOT NULL);
CREATE TABLE records (
    content INTEGER NOT NULL, member TEXT NOT NULL, preset TEXT NOT NULL, value TEXT, code TEXT, message TEXT,
    PRIMARY KEY (content, member)) WITHOUT ROWID;
CREATE TABLE fields (
    content INTEGER NOT NULL, member TEXT NOT NULL, name TEXT NOT NULL, page INTEGER, text TEXT, number REAL, day TEXT);
CREATE INDEX fields_by_content ON fields (content);
CREATE INDEX fields_by_number ON fields (name, number) WHERE number IS NOT NULL;
CREATE INDEX fields_by_day ON fields (name, day) WHERE day IS NOT NULL;
CREATE TABLE vectors (page INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(text, about, content = '', {TOKENS});
CREATE VIRTUAL TABLE names USING fts5(name, content = '', {TOKENS});
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, 'row');
CREATE TABLE terms (id INTEGER PRIMARY KEY, term TEXT NOT NULL UNIQUE);
CREATE VIRTUAL TABLE trigrams USING fts5(term, content = 'terms', content_rowid = 'id', tokenize = 'trigram');
"""


def index_of(path: Path) -> Path:
    """Return the index that a path names: the file itself, or the one in a folder. Raises UsageError."""
    path = path.expanduser()
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        where = f"the folder {path} has no index" if path.is_dir() else f"no index at {path}"
        raise UsageError(
            f"{where}; make one with `tessera index {path if path.is_dir() else 'FOLDER'}`.", param="index"
        )
    return file


def root_of(file: Path, connection: sqlite3.Connection) -> Path:
    """Return the folder whose documents an index holds: its own, wherever that was moved, or the one it was made of."""
    with _whole(file):
        (root,) = connection.execute("SELECT value FROM facts WHERE name = 'root'").fetchone()
    return file.absolute().parent if root == "." else Path(root)


@contextmanager
def writing(file: Path, root: Path) -> Iterator[sqlite3.Connection]:
    """Open or begin the index of a folder, alone among those that write it. Raises UsageError."""
    if not file.absolute().parent.is_dir():
        raise UsageError(
            f"the index {file} would be in a folder that does not exist; make it, or name another (--out)."
        )
    with _lock(file), in_words(file):
        connection = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)
        try:
            with _whole(file):
                _begin(file, connection, root.absolute())
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            yield connection
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            # One file that can be read from anywhere; unless somebody reads it now.
            connection.execute("PRAGMA busy_timeout = 0")
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            connection.close()


def _begin(file: Path, connection: sqlite3.Connection, root: Path) -> None:
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";\n"):
            connection.execute(statement)
        own = "." if root == file.absolute().parent else str(root)
        connection.execute("INSERT INTO facts VALUES ('root', ?)", (own,))
        connection.execute("COMMIT")
        return
    check(file, connection)
    if (known := root_of(file, connection)) != root and known.resolve() != root.resolve():
        raise UsageError(f"the index {file} is of {known}, not of {root}; name another file (--out).")


def check(file: Path, connection: sqlite3.Connection) -> None:
    """Raise UsageError for a file that is no index of this version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not application and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise UsageError(
            f"the index {file} is empty, as a run leaves it that cannot begin; index again.", param="index"
        )
    if application != APPLICATION:
        raise UsageError(f"{file} is no index of Tessera; name another file.", param="index")
    if version != VERSION:
        raise UsageError(
            f"the index {file} is of version {version}, and this is version {VERSION}; delete it and index again."
        )


def reading(file: Path) -> sqlite3.Connection:
    """Open an index that may be written to meanwhile, or lie where nothing can be written. Raises UsageError."""
    with in_words(file):
        own = f"{file.absolute().as_uri()}?mode=ro"
        if not os.access(file.absolute().parent, os.W_OK) and not file.with_name(f"{file.name}-wal").exists():
            own += "&immutable=1"  # its journal's memory file cannot be made there
        connection = sqlite3.connect(
            own, uri=True, timeout=READING_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            with _whole(file):
                connection.execute("PRAGMA query_only = ON")
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                check(file, connection)
        except BaseException:
            connection.close()
            raise
        return connection


def damaged(file: Path) -> UsageError:
    return UsageError(f"{file} is no index, or is damaged; delete it and index again.", param="index")


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Reword what a damaged schema gives rise to: tables that lack, and messages of SQLite's that are no text."""
    try:
        yield
    except (UnicodeDecodeError, TypeError) as error:
        raise damaged(file) from error
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
            raise damaged(file) from error
        raise


@contextmanager
def in_words(file: Path) -> Iterator[None]:
    """Reword SQLite's failures, and those of the texts that it keeps."""
    try:
        yield
    except zlib.error as error:
        raise damaged(file) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"{file}: no space is left on the disk; free some, and index again.") from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) or type(error) is sqlite3.DatabaseError:
            raise damaged(file) from error
        if code == sqlite3.SQLITE_INTERRUPT:
            raise UsageError("the search takes too long; add a rarer word or a filter.", param="q") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise FileBusyError(f"the index {file} is in use by another process; try again later.") from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            raise UsageError(f"the index {file} cannot be opened; check the path and its permissions.") from error
        raise


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold the lock of the one that writes; the system releases it when the process ends."""
    path = file.with_name(f"{file.name}.lock")
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(
                f"the index {file} cannot be written ({error.strerror}); check the folder, or name a file (--out)."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UsageError(f"another process writes the index {file}; wait until it is done.") from error
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # another removed it between the two calls
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
