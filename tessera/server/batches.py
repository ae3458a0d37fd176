"""Batches of both APIs: one table of jobs, each with a journal, worked on by threads of the server.

A job's folder holds its input, its journal, and its outputs until they are files. The state is on the disk before it
is told, so a server that was killed goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.documents.api import calibration_of
from tessera.documents.calibration import Calibration
from tessera.errors import UsageError
from tessera.server.backend import Backend, LocalBackend
from tessera.server.errors import BadRequestError
from tessera.server.file_table import DAY_S
from tessera.server.files import GARBAGE_S
from tessera.server.served_model import Gate
from tessera.server.settings import Settings

if TYPE_CHECKING:
    from tessera.server.batch_run import Running
    from tessera.server.documents import OcrService

logger = logging.getLogger(__name__)
MAX_RUNNING = 4  # jobs at once; they share the places in the engine
SWEEP_S = 600.0  # between two times that what is old is removed
MAX_ENDED = 10_000  # jobs of one key that are kept after their end
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
JOBS_READ = 100  # rows at once
UNFINISHED = f"state NOT IN ({','.join('?' * len(ENDED))})"
KINDS = {"batch": "batches", "extraction": "extractions"}


@dataclass
class Job:
    """One job's row. `times` has the second of each state that it reached, `expires` that of its end at the latest."""

    id: str
    tenant: str
    created: int
    endpoint: str
    served: str  # the model, as the server's settings name it
    window: str  # as the client said it
    expires: int
    inputs: list[str] = field(default_factory=list)  # file ids; none for requests that came with the call
    state: str = "validating"
    model: str | None = None
    metadata: dict[str, Any] | None = None
    times: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    output: str | None = None
    error: str | None = None
    output_age_s: int | None = None
    usage: dict[str, int] | None = None
    ending: str | None = None  # the state that it is to end in, once it has stopped
    kind: str = "batch"  # or "extraction"
    task: dict[str, Any] = field(default_factory=dict)  # what an extraction is to do

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class JobMissingError(BadRequestError):
    """No such job of this kind for this key."""

    def __init__(self, job_id: str, kind: str = "batch") -> None:
        super().__init__(f"there is no {kind} {job_id[:60]!r}; list yours.", code=f"{kind}_not_found", status=404)


class Batches:
    """The jobs; `open` in the server's event loop, `close` before the engine."""

    def __init__(self, ocr: OcrService) -> None:
        self.ocr, self.store, self.backend = ocr, ocr.store, ocr.backend
        self.settings, self.names = ocr.settings, ocr.names
        self.gate = Gate(self.backend)
        self.calibration = _calibration(self.settings, self.backend)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closing = threading.Event()
        self._lock = threading.RLock()
        self._running: dict[str, Running] = {}
        self._order = threading.Thread(target=self._keep_order, name="tessera-order", daemon=True)

    def open(self) -> None:
        """Go on with what an earlier server left."""
        self.loop = asyncio.get_running_loop()
        if self.store.exists:
            try:
                self._start_waiting()
            except BadRequestError as error:
                logger.warning("batches do not go on: %s", error)
        self._order.start()

    def close(self) -> None:
        """Stop all work now; the jobs go on when the next server starts."""
        self.closing.set()
        with self._lock:
            running = list(self._running.values())
        for each in running:
            each.abort()
        for each in running:
            each.thread.join(timeout=30)
        if self._order.ident is not None:
            self._order.join(timeout=30)

    # Jobs ------------------------------------------------------------------------------------

    def create(self, job: Job, fill: Callable[[Path], None]) -> Job:
        """Begin a job; `fill` writes its input to a path. Raises BadRequestError if the key has too many."""
        waiting = self._rows(f"tenant = ? AND {UNFINISHED}", (job.tenant, *ENDED))  # not the thousands that have ended
        unfinished = sum(each.kind == job.kind for each in waiting)
        if unfinished >= self.settings.max_batches:
            several = KINDS[job.kind]
            raise BadRequestError(
                f"{unfinished} {several} are not finished, and the limit is {self.settings.max_batches} (max_batches); "
                "wait for one, or cancel it.",
                code=f"too_many_{several}", status=429,
            )  # fmt: skip
        folder = self.folder(job)
        folder.mkdir(mode=0o700)
        try:
            fill(folder / "input.jsonl")
            self._save(job)
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._start_waiting()
        return job

    def get(self, job_id: str, tenant: str, kind: str = "batch") -> Job:
        """Return a key's job, with its counts as they are now; raises JobMissingError."""
        found = [job for job in self._rows("id = ? AND tenant = ?", (job_id, tenant)) if job.kind == kind]
        if not found:
            raise JobMissingError(job_id, kind)
        return found[0]

    def select(
        self, tenant: str, kind: str = "batch", *, after: Job | None = None, ascending: bool = False
    ) -> Iterator[Job]:
        """A key's jobs of a kind, newest first or last, after one of them; some at a time, for there may be many."""
        sign, order = (">", "created, id") if ascending else ("<", "created DESC, id DESC")
        where, last = "tenant = ? AND COALESCE(json_extract(told, '$.kind'), 'batch') = ?", after
        while True:
            place = () if last is None else (last.created, last.id)
            beyond = f" AND (created, id) {sign} (?, ?)" if place else ""
            jobs = self._rows(where + beyond, (tenant, kind, *place), f"{order} LIMIT {JOBS_READ}")
            yield from jobs
            if len(jobs) < JOBS_READ:
                return
            last = jobs[-1]

    def cancel(self, job_id: str, tenant: str, kind: str = "batch") -> Job:
        """Stop a job: no more of its lines are begun, and what is there is kept. One that has ended stays as it is."""
        with self._lock:
            job = self.get(job_id, tenant, kind)
            if job.ended or job.state in ("cancelling", "finalizing"):
                return job
            job.ending = "cancelled"
            self._enter(job, "cancelling")
            if running := self._running.get(job.id):
                running.is_cancelled = True
        self._start_waiting()
        return job

    def delete(self, job_id: str, tenant: str, kind: str = "batch") -> None:
        """Forget a job that has ended; its files stay."""
        job = self.get(job_id, tenant, kind)
        if not job.ended:
            raise BadRequestError(f"the {kind} is {job.state}; cancel it first.", code=f"{kind}_not_ended", status=409)
        with self.store.table() as table:
            table.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
        shutil.rmtree(self.folder(job), ignore_errors=True)

    # For the threads -------------------------------------------------------------------------

    def folder(self, job: Job) -> Path:
        return self.store.folder / "jobs" / job.id

    def is_stopped(self, job: Job) -> str | None:
        """Why a job may begin no more lines: "closing", "cancelled" or "expired"; None if it may."""
        if self.closing.is_set() or not self.backend.alive:
            return "closing"
        with self._lock:
            running = self._running.get(job.id)
        if running is not None and running.is_cancelled:
            return "cancelled"
        return "expired" if time.time() >= job.expires else None

    def move(self, job: Job, state: str) -> None:
        """Move a job of a thread to a state, on the disk, and take in that it was cancelled meanwhile."""
        with self._lock:
            current = self.get(job.id, job.tenant, job.kind)
            job.times, job.ending = current.times | job.times, job.ending or current.ending
            if current.state == "cancelling" and state == "in_progress":
                job.state = current.state
            else:
                self._enter(job, state)

    def _enter(self, job: Job, state: str) -> None:
        job.state = state
        job.times[state] = int(time.time())
        self._save(job)

    def _save(self, job: Job) -> None:
        with self.store.table() as table:
            table.execute(
                "INSERT OR REPLACE INTO jobs (id, tenant, created, state, told) VALUES (?, ?, ?, ?, ?)",
                (job.id, job.tenant, job.created, job.state, json.dumps(asdict(job))),
            )

    def ended(self, job: Job) -> None:
        """Make room for the next job; called by the thread at its end."""
        with self._lock:
            self._running.pop(job.id, None)
        if not self.closing.is_set() and self.backend.alive:
            self._start_waiting()

    # Inside ----------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        """Start as many unfinished jobs as may run, the oldest first."""
        from tessera.server.batch_run import BatchRun, Running
        from tessera.server.extractions import ExtractionRun

        with self._lock:
            for job in self._rows(UNFINISHED, tuple(ENDED), "created, id"):
                if len(self._running) >= MAX_RUNNING or self.closing.is_set() or self.loop is None:
                    return
                if job.id not in self._running:
                    run = (ExtractionRun if job.kind == "extraction" else BatchRun)(self, job)
                    self._running[job.id] = Running(run.work, run.abort, run.counts, job.state == "cancelling")
                    self._running[job.id].thread.start()

    def _rows(self, where: str, values: Sequence[Any], order: str = "created DESC, id DESC") -> list[Job]:
        with self._lock, self.store.table() as table:
            rows = table.execute(f"SELECT told FROM jobs WHERE {where} ORDER BY {order}", tuple(values)).fetchall()
            jobs = [Job(**json.loads(told)) for (told,) in rows]
            for job in jobs:
                self._count(job)
        return jobs

    def _count(self, job: Job) -> None:
        running = self._running.get(job.id)
        counts = None if running is None or job.ended else running.counts()
        if counts is not None:
            job.total, job.completed, job.failed = counts.total, counts.done, counts.failed

    def _keep_order(self) -> None:
        """Sweep now and then, also while nobody asks for anything."""
        while not self.closing.wait(SWEEP_S):
            try:
                if self.store.exists:
                    self._sweep()
            except Exception:
                logger.warning("old files and batches are removed later", exc_info=True)

    def _sweep(self) -> None:
        """Remove old files and jobs, a key's oldest jobs beyond the limit, and folders of jobs that are none."""
        self.store.sweep()
        before = time.time() - self.settings.files_max_days * DAY_S
        places = "SELECT id, ROW_NUMBER() OVER (PARTITION BY tenant ORDER BY created DESC, id DESC) AS place FROM jobs"
        ended = f"state IN ({','.join('?' * len(ENDED))})"
        with self.store.table() as table:
            table.execute(f"DELETE FROM jobs WHERE created < ? AND {ended}", (before, *ENDED))
            table.execute(
                f"DELETE FROM jobs WHERE id IN (SELECT id FROM ({places} WHERE {ended}) WHERE place > ?)",
                (*ENDED, MAX_ENDED),
            )
            known = {row[0] for row in table.execute("SELECT id FROM jobs")}
        for path in (self.store.folder / "jobs").iterdir():
            with suppress(FileNotFoundError):  # deleted meanwhile by its key
                if path.name not in known and time.time() - path.stat().st_mtime > GARBAGE_S:
                    shutil.rmtree(path, ignore_errors=True)


def _calibration(settings: Settings, backend: Backend) -> Calibration | None:
    """Read the calibration that extractions use; raises UsageError for one of another model."""
    if isinstance(backend, LocalBackend):
        return calibration_of(backend.llm, settings.calibration)
    if settings.calibration is not None:
        raise UsageError("calibration is for a model in this process; leave it out.")
    return None
