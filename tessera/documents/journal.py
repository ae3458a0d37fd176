"""The journal of a long job: one SQLite file that says which items are done, and with which results.

An item is done when its result is committed and synced; results are committed in groups. Whoever works on an item
holds a lease. A worker holds a lock on a file of its own as long as it lives, so a dead one's items come back at once,
and those of one that stands still come back at their deadline. Items that were in hand when a worker died are
suspects: they come last and in ever smaller groups, because one of them may have killed it. An item that
was in hand alone at two deaths is not tried again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tessera.documents.journal_file import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    in_words,
    opened,
    reader,
    return_leases,
    storable,
    waiting_items,
)
from tessera.documents.owners import Owner, others_of
from tessera.errors import TesseraError, UsageError, shown

GROUP, GROUP_BYTES, GROUP_S = 64, 8 << 20, 0.5  # results committed together, their bytes, and their longest wait
LEASE_S = 60.0
FATAL = 2.0  # blame from which an item counts as a killer: two deaths alone
SUSPECTS = 8  # a group of suspects is this many times smaller than the group that died before


@dataclass(frozen=True)
class Item:
    """A leased item; `attempts` counts this one. With `died` it killed its workers and must not be tried again."""

    id: str
    payload: str
    attempts: int
    died: bool = False


@dataclass(frozen=True)
class Result:
    """A finished item."""

    id: str
    payload: str
    result: str
    failed: bool
    review: bool


@dataclass(frozen=True)
class Counts:
    """Numbers of items; `total` is the sum of the next four, and `review` is part of `done`."""

    total: int
    done: int
    failed: int
    running: int
    waiting: int
    review: int = 0

    @property
    def left(self) -> int:
        return self.running + self.waiting


class DuplicateError(UsageError):
    """Items that share an id; `first` and `second` are the payloads of the first pair."""

    def __init__(self, identity: str, first: str, second: str) -> None:
        super().__init__(f"the id {shown(identity)} occurs twice; give each item its own.")
        self.identity, self.first, self.second = identity, first, second


class Journal:
    """A job's items and results in the file at `path`; use it as a context manager. Threads may share it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lease_s: float) -> None:
        self.path = path
        self._connection, self._lock, self._lease_s = connection, threading.RLock(), lease_s
        self._owner = Owner(path)
        self._held: dict[str, float] = {}  # ids in hand, and how many may be beside each
        self._finished: dict[str, tuple[str, bool, bool]] = {}  # results to be committed
        self._finished_bytes, self._finished_since = 0, 0.0
        self._failure: TesseraError | None = None
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="tessera-journal", daemon=True)

    @classmethod
    def open(
        cls, path: str | Path, identity: Mapping[str, str], *, force: bool = False, lease_s: float = LEASE_S
    ) -> Journal:
        """Open or begin the journal of the job with this identity: its input, model and settings by name.

        Raises UsageError if the file belongs to another job; with `force` that one's results are given up.
        """
        path = Path(path)
        connection = opened(path, identity, force=force)
        others_of(path)  # removes the locks of workers that died with empty hands
        journal = cls(path, connection, lease_s)
        with journal._writing():
            return_leases(connection, path, journal._owner.name)
        journal._keeper.start()
        return journal

    def facts(self) -> dict[str, str]:
        """The identity, and `created`: the second at which the journal was begun."""
        with self._lock:
            return dict(self._connection.execute("SELECT name, value FROM facts"))

    def add(self, items: Iterable[tuple[str, str]]) -> int:
        """Add items with their payloads, all or none; those of an earlier call are known. Returns the number of new.

        Raises DuplicateError if an id comes twice, or came earlier with another payload.
        """
        added = 0
        with self._writing() as connection:
            (last,) = connection.execute("SELECT COALESCE(MAX(number), 0) FROM items").fetchone()
            for identity, payload in ((storable(name), storable(told)) for name, told in items):
                cursor = connection.execute(
                    "INSERT INTO items (id, payload) VALUES (?, ?) ON CONFLICT DO NOTHING", (identity, payload)
                )
                if cursor.rowcount:
                    added += 1
                    continue
                number, before = connection.execute(
                    "SELECT number, payload FROM items WHERE id = ?", (identity,)
                ).fetchone()
                if number > last or before != payload:
                    raise DuplicateError(identity, before, payload)
        return added

    def take(self, count: int = 1) -> list[Item]:
        """Lease up to `count` items; none if there are none now, also because suspects wait for an empty hand."""
        taken: list[Item] = []
        if self._failure is not None:
            raise self._failure
        if self._comes_suspect():
            self.flush()  # if that one kills the worker, results must not be lost with it
        with self._writing(durable=False) as connection:
            for number, identity, payload, attempts, blame, crowd in waiting_items(
                connection, self.path, self._owner.name, count
            ):
                died = blame >= FATAL
                beside = max(1.0, crowd // SUSPECTS) if blame and not died else float("inf")
                if len(self._held) + 1 > min([beside, *self._held.values()]):
                    break
                connection.execute(
                    "UPDATE items SET state = ?, owner = ?, deadline = ?, attempts = attempts + 1 WHERE number = ?",
                    (RUNNING, self._owner.name, time.time() + self._lease_s, number),
                )
                self._held[identity] = beside
                taken.append(Item(identity, payload, attempts + 1, died))
        return taken

    def finish(self, identity: str, result: str, failed: bool = False, *, review: bool = False) -> None:
        """Record an item's result; it is committed within half a second. The first result of an item stays."""
        with self._lock:
            self._finished_since = self._finished_since if self._finished else time.monotonic()
            self._finished[identity] = (storable(result), failed, review)
            self._finished_bytes += len(result)
            self._held.pop(identity, None)
            if len(self._finished) >= GROUP or self._finished_bytes >= GROUP_BYTES or self._is_late:
                self.flush()

    def flush(self) -> None:
        """Commit all results so far, and wait until they are on the disk."""
        with self._lock:
            if not self._finished:
                return
            with self._writing() as connection:
                connection.executemany(
                    f"UPDATE items SET state = ?, review = ?, result = ?, owner = NULL WHERE id = ? AND state < {DONE}",
                    [
                        (FAILED if failed else DONE, review, result, identity)
                        for identity, (result, failed, review) in self._finished.items()
                    ],
                )
            self._finished.clear()
            self._finished_bytes = 0

    def release(self, ids: Iterable[str] | None = None, *, died: bool = False) -> None:
        """Give leased items back, or all; they count as not tried, or with `died` as in hand when something died."""
        with self._writing() as connection:
            mine = [(each, self._owner.name) for each in (list(self._held) if ids is None else ids)]
            crowd = len(mine)
            blame = f"blame = blame + {1 / crowd}, crowd = {crowd}" if died and mine else "attempts = attempts - 1"
            connection.executemany(
                f"UPDATE items SET state = {WAITING}, owner = NULL, {blame} "
                f"WHERE id = ? AND owner = ? AND state = {RUNNING}",
                mine,
            )
            for each, _ in mine:
                self._held.pop(each, None)

    def retry_failed(self) -> int:
        """Make all failed items wait again, as if never tried; returns their number."""
        with self._writing() as connection:
            return connection.execute(
                f"UPDATE items SET state = {WAITING}, result = NULL, attempts = 0, blame = 0, crowd = 0 "
                f"WHERE state = {FAILED}"
            ).rowcount

    def results(self) -> Iterator[Result]:
        """Yield the finished items in the order in which they were added, without holding them in memory."""
        self.flush()
        with reader(self.path) as connection:
            for identity, payload, result, state, review in connection.execute(
                f"SELECT id, payload, result, state, review FROM items WHERE state >= {DONE} ORDER BY number"
            ):
                yield Result(identity, payload, result, state == FAILED, bool(review))

    def counts(self) -> Counts:
        """Count the items by state, all workers' together; results that are not committed yet count as running."""
        with self._lock:
            found = self._connection.execute("SELECT state, review, COUNT(*) FROM items GROUP BY state, review")
            rows = found.fetchall()
        by_state = [sum(count for state, _, count in rows if state == wanted) for wanted in range(4)]
        review = sum(count for state, review, count in rows if state == DONE and review)
        return Counts(sum(by_state), by_state[DONE], by_state[FAILED], by_state[RUNNING], by_state[WAITING], review)

    def close(self) -> None:
        """Commit all results and give back what is in hand; may be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        try:
            self.flush()
            self.release()
        finally:
            self._connection.close()
            self._owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside ----------------------------------------------------------------------------------

    @property
    def _is_late(self) -> bool:
        return bool(self._finished) and time.monotonic() - self._finished_since >= GROUP_S

    def _comes_suspect(self) -> bool:
        with self._lock:
            query = f"SELECT blame FROM items WHERE state = {WAITING} ORDER BY blame LIMIT 1"
            found = self._connection.execute(query).fetchone() if self._finished else None
        return found is None or found[0] > 0

    def _keep(self) -> None:
        """Renew the leases and commit late results while the owner works; a failure shows at its next call."""
        renewed = time.monotonic()
        while not self._closing.wait(GROUP_S / 2):
            try:
                with self._lock:
                    if self._is_late:
                        self.flush()
                if self._held and time.monotonic() - renewed > self._lease_s / 4:
                    with self._writing(durable=False) as connection:
                        connection.execute(
                            f"UPDATE items SET deadline = ? WHERE state = {RUNNING} AND owner = ?",
                            (time.time() + self._lease_s, self._owner.name),
                        )
                    renewed = time.monotonic()
            except TesseraError as error:
                self._failure = error
                return

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction that waits for other processes; a lease need not survive a power failure, so need not sync."""
        with self._lock, in_words(self.path):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            try:
                self._connection.execute("BEGIN IMMEDIATE")  # a signal may end it after it has begun
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
