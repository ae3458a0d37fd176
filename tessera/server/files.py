"""Files that clients upload and that batches write: bytes in one folder, and a table of what they are.

A file's name on disk is its id, which is made here; the client's name for it is only shown. Each file belongs to the
API key that brought it. One server uses a folder at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import IO, Any

from tessera.errors import EngineBusyError, TesseraError
from tessera.machine import disk_room, written_whole
from tessera.server.errors import BadRequestError
from tessera.server.file_table import COLUMNS, DAY_S, TABLES, FileMissingError, StoredFile, new_id
from tessera.server.settings import Settings
from tessera.shelf import data_folder

GARBAGE_S = 3600.0  # after which what belongs to nothing is removed
MAX_UPLOADS = 8  # at once
PIECE = 1 << 20


class FileStore:
    """The folder and its table; opened at the first use, closed with the server. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self.folder = (settings.files_dir or data_folder() / "files").expanduser()
        self.max_file_bytes = settings.max_file_bytes
        self._max_bytes, self._max_files = settings.files_max_bytes, settings.max_files
        self._max_age_s = settings.files_max_days * DAY_S
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._locked: int | None = None
        self._uploads: dict[str, int] = {}  # bytes of the files that are arriving
        self._secret = b""

    # Opening and closing ---------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Return True if an earlier server left something in the folder."""
        return (self.folder / "table.sqlite").exists()

    @contextmanager
    def table(self) -> Iterator[sqlite3.Connection]:
        """Use the table, in one transaction; opens the folder first. Raises BadRequestError if it cannot be used."""
        with self._lock:
            if self._connection is None:
                self._open()
            connection = self._connection
            if connection is None:
                raise RuntimeError("the table is open after opening")
            with disk_room(self.folder):
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    def _open(self) -> None:
        try:
            for folder in (self.folder, self.folder / "content", self.folder / "arriving", self.folder / "jobs"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._locked = self._lock_folder()
            connection = sqlite3.connect(
                self.folder / "table.sqlite", isolation_level=None, check_same_thread=False, timeout=30
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(TABLES)
            self._secret = self._read_secret()
        except (OSError, sqlite3.DatabaseError) as error:
            self.close()
            raise BadRequestError(
                "this server cannot keep files: its folder cannot be used (files_dir); the log has the reason.",
                code="no_files", status=503,
            ) from error  # fmt: skip
        self._connection = connection
        self.sweep()

    def _lock_folder(self) -> int:
        descriptor = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BadRequestError(
                "another server on this machine uses the folder for files; give this one its own (files_dir).",
                code="no_files", status=503,
            ) from error  # fmt: skip
        return descriptor

    def _read_secret(self) -> bytes:
        path = self.folder / "secret"
        if not path.exists():
            with written_whole(path) as partial:
                descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(32))
        return path.read_bytes()

    def close(self) -> None:
        """Close the table and let another server use the folder; may be called twice."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._locked is not None:
                os.close(self._locked)
                self._locked = None

    # Writing ---------------------------------------------------------------------------------

    @contextmanager
    def upload(self) -> Iterator[Upload]:
        """Yield where to write a new file; what is not kept at the end is removed."""
        count = self._sum("COUNT(*)", self._max_files - len(self._uploads) - 1)
        if count + len(self._uploads) >= self._max_files:
            raise BadRequestError(
                f"the server keeps {count:,} files and the limit is {self._max_files:,} (max_files); delete some.",
                code="too_many_files",
            )
        if len(self._uploads) >= MAX_UPLOADS:
            raise EngineBusyError(f"{MAX_UPLOADS} files are arriving, which is the limit; send the file again later.")
        file_id = new_id()
        path = self.folder / "arriving" / file_id
        self._uploads[file_id] = 0
        try:
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b") as file:
                yield Upload(self, file_id, file)
        finally:
            del self._uploads[file_id]
            path.unlink(missing_ok=True)

    def grown(self, file_id: str, size: int) -> None:
        """Check a file that is arriving against the limits; raises BadRequestError."""
        if size > self.max_file_bytes:
            raise BadRequestError(
                f"the file has more than {self.max_file_bytes:,} bytes, which is the limit (max_file_bytes); split it.",
                param="file", code="file_too_large", status=413,
            )  # fmt: skip
        before = self._uploads[file_id]
        self._uploads[file_id] = size
        if before // (8 * PIECE) == size // (8 * PIECE) and before:
            return  # the sum is looked up now and then
        stored = self._sum("COALESCE(SUM(size), 0)", self._max_bytes - sum(self._uploads.values()))
        if stored + sum(self._uploads.values()) > self._max_bytes:
            raise BadRequestError(
                f"the server's files hold {stored:,} bytes and the limit is {self._max_bytes:,} (files_max_bytes); "
                "delete some.",
                code="no_room", status=413,
            )  # fmt: skip

    def _sum(self, what: str, room: int) -> int:
        """A sum over all files; if it exceeds the room, files over their age are removed before."""
        for attempt in range(2):
            with self.table() as table:
                found = int(table.execute(f"SELECT {what} FROM files").fetchone()[0])
            if found <= room or attempt:
                break
            self.sweep()
        return found

    def keep(self, upload: Upload, row: StoredFile) -> StoredFile:
        """Put a file that has arrived under its id, on the disk before in the table."""
        upload.file.flush()
        os.fsync(upload.file.fileno())
        self._place(self.folder / "arriving" / upload.id, row)
        return row

    def adopt(self, path: Path, row: StoredFile) -> StoredFile:
        """Take a file of this folder's jobs in, under the row's id; it counts against no limit."""
        self._place(path, row)
        return row

    def _place(self, path: Path, row: StoredFile) -> None:
        path.replace(self.path(row.id))
        values = astuple(row)
        with self.table() as table:
            table.execute(f"INSERT OR REPLACE INTO files ({COLUMNS}) VALUES ({','.join('?' * len(values))})", values)

    def delete(self, file_id: str, tenant: str) -> None:
        self.get(file_id, tenant)
        with self.table() as table:
            table.execute("DELETE FROM files WHERE id = ? AND tenant = ?", (file_id, tenant))
        self.path(file_id).unlink(missing_ok=True)

    def expiry(self, created: int, age_s: int | None) -> int:
        """When a file made at `created` ends: at the age that was asked for, but never above the server's own."""
        return created + min(self._max_age_s, age_s or self._max_age_s)

    # Reading ---------------------------------------------------------------------------------

    @property
    def secret(self) -> bytes:
        """The folder's own key."""
        if not self._secret:
            with self.table():
                pass  # which opens the folder
        return self._secret

    def path(self, file_id: str) -> Path:
        """Where the content lies; the id must come from a row."""
        return self.folder / "content" / str(uuid.UUID(file_id))

    def get(self, file_id: str, tenant: str) -> StoredFile:
        """Return a key's file; raises FileMissingError, also for one that is over its age."""
        found = self.select("id = ? AND tenant = ?", (file_id, tenant), limit=1)
        if not found:
            raise FileMissingError(file_id)
        return found[0]

    def select(
        self, where: str, values: Sequence[Any], *, order: str = "created DESC, id DESC", limit: int = 10_000,
        offset: int = 0,
    ) -> list[StoredFile]:  # fmt: skip
        with self.table() as table:
            rows = table.execute(
                f"SELECT {COLUMNS} FROM files WHERE expires > ? AND {where} ORDER BY {order} LIMIT ? OFFSET ?",
                (time.time(), *values, limit, offset),
            ).fetchall()
        return [StoredFile(*row) for row in rows]

    def count(self, where: str, values: Sequence[Any]) -> int:
        with self.table() as table:
            found = table.execute(
                f"SELECT COUNT(*) FROM files WHERE expires > ? AND {where}", (time.time(), *values)
            ).fetchone()
        return int(found[0])

    # Signed addresses ------------------------------------------------------------------------

    def sign(self, file_id: str, tenant: str, until: int) -> str:
        """The query that lets anybody read this content until then."""
        return f"until={until}&signature={self._signature(file_id, tenant, until)}"

    def tenant_signed(self, file_id: str, until: str, signature: str) -> str | None:
        """Return the owner of a file whose address is signed and still valid; None for any other."""
        if not (until.isdecimal() and len(until) < 12 and int(until) > time.time()):
            return None
        with suppress(TesseraError):
            for row in self.select("id = ?", (file_id,), limit=1):
                if hmac.compare_digest(self._signature(file_id, row.tenant, int(until)).encode(), signature.encode()):
                    return row.tenant
        return None

    def _signature(self, file_id: str, tenant: str, until: int) -> str:
        return hmac.new(self._secret, f"{file_id}/{tenant}/{until}".encode(), hashlib.sha256).hexdigest()

    # Order -----------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove files over their age, and content that belongs to no row for an hour."""
        with self.table() as table:
            table.execute("DELETE FROM files WHERE expires <= ?", (time.time(),))
            known = {row[0] for row in table.execute("SELECT id FROM files")}
        for path in (*(self.folder / "content").iterdir(), *(self.folder / "arriving").iterdir()):
            with suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > GARBAGE_S
                if path.name not in known and path.name not in self._uploads and is_old:
                    path.unlink()


class Upload:
    """A file that arrives."""

    def __init__(self, store: FileStore, file_id: str, file: IO[bytes]) -> None:
        self.id, self.file, self._store = file_id, file, store
        self.size = self.lines = 0
        self._begins_line = True

    def write(self, data: bytes) -> None:
        """Add bytes; raises BadRequestError beyond a limit, DiskFullError if the disk is full."""
        self.size += len(data)
        self._store.grown(self.id, self.size)
        self.lines += data.count(b"\n")
        self._begins_line = data.endswith(b"\n") if data else self._begins_line
        with disk_room(self._store.folder):
            self.file.write(data)

    @property
    def num_lines(self) -> int:
        return self.lines + (not self._begins_line)
