"""One batch's work: its input is checked, its lines are answered, its outputs become files."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tessera.documents.journal import Counts, Journal
from tessera.documents.runner import WAIT_S, run
from tessera.errors import DiskFullError, EngineDeadError, TesseraError
from tessera.server.batches import Batches, Job
from tessera.server.documents import OCR, OcrLines
from tessera.server.errors import BadRequestError, unexpected_error
from tessera.server.file_table import StoredFile, new_id
from tessera.server.jobs import LineJob, digest_of, errors_path, fill, number_of, numbered_lines, write_outputs
from tessera.server.lines import LineError, Rows, read_line
from tessera.server.served_model import JobStoppedError, ServedModel

logger = logging.getLogger(__name__)
REST_S = 60.0  # before a job is tried again that the disk has no room for
MAX_ERRORS = 100  # told of one input
TAKEN = 256  # lines that are closed together when the time is over


class Running:
    """A job's thread."""

    def __init__(
        self, work: Callable[[], None], abort: Callable[[], None], counts: Callable[[], Counts | None],
        is_cancelled: bool,
    ) -> None:  # fmt: skip
        self.thread = threading.Thread(target=work, name="tessera-batch", daemon=True)
        self.abort, self.counts, self.is_cancelled = abort, counts, is_cancelled


class BatchRun:
    """Works on one job in its thread, from whatever state it is in."""

    def __init__(self, batches: Batches, job: Job) -> None:
        self._batches, self._job = batches, job
        self._folder = batches.folder(job)
        self._counts: Counts | None = None
        self._model: ServedModel | None = None

    def counts(self) -> Counts | None:
        """The lines by state, as last known; None before they are counted."""
        return self._counts

    def abort(self) -> None:
        """End what is being answered: the server ends."""
        if self._model is not None:
            self._model.abort()

    def work(self) -> None:
        """Work until the job ends or the server does; without room on the disk, rest and keep what is there."""
        try:
            self._work_or_fail()
        except Exception as error:
            full = isinstance(error, DiskFullError)
            why = str(error) if full else "its end could not be kept"
            logger.warning("batch %s is tried again in %g s: %s", self._job.id, REST_S, why, exc_info=not full)
            self._batches.closing.wait(REST_S)
        finally:
            self._batches.ended(self._job)

    def _work_or_fail(self) -> None:
        try:
            self._work()
        except (JobStoppedError, EngineDeadError):
            logger.info("batch %s goes on when the server starts again", self._job.id)
        except DiskFullError:
            raise
        except TesseraError as error:
            self._fail([_mistake(error.code or "failed", str(error), None)])
        except Exception:
            logger.exception("batch %s failed", self._job.id)
            self._fail([_mistake("server_error", str(unexpected_error()), None)])

    def _work(self) -> None:
        job, source = self._job, self._folder / "input.jsonl"
        if job.state == "validating":
            if errors := self._mistakes(source):
                self._fail(errors)
                return
            self._enter("in_progress")
        digest = digest_of(source)
        with Journal.open(self._folder / "journal", {"input": digest, "model": job.served}) as journal:
            fill(journal, source)
            self._counts = journal.counts()
            if job.state != "finalizing":
                self._answer_or_fail(journal, source)
            self._finalize(journal)
        self._end(job.ending or "completed")

    def _answer_or_fail(self, journal: Journal, source: Path) -> None:
        """Answer what is left; after a failure, what was answered is still kept."""
        job, served = self._job, self._batches.settings.model
        try:
            if job.served != served:
                raise BadRequestError(
                    f"the batch was begun with the model {job.served[:80]}, and the server now has {served[:80]}; "
                    "send what is left as a new batch.",
                    code="model_changed",
                )
            self._answer(journal, source)
        except (JobStoppedError, EngineDeadError, DiskFullError):
            raise
        except TesseraError as error:
            job.errors, job.ending = [_mistake(error.code or "failed", str(error), None)], "failed"

    def _mistakes(self, source: Path) -> list[dict[str, object]]:
        """What is wrong with the input, by line; a batch with any mistake is not begun."""
        errors: list[dict[str, object]] = []
        first: dict[str, int] = {}
        limit = self._batches.settings.max_batch_lines
        for count, (number, _, data) in enumerate(numbered_lines(source), 1):
            self._check_stopped()
            if count > limit:
                return [_mistake("too_many_lines", f"the batch has more than {limit:,} requests, which is the limit "
                                 "(max_batch_lines); split it.", number)]  # fmt: skip
            try:
                custom_id = read_line(data, number, self._job.endpoint).custom_id
            except LineError as error:
                errors.append(_mistake(str(error.code), str(error), number))
            else:
                if (before := first.setdefault(custom_id, number)) != number:
                    words = (
                        f"lines {before} and {number} have the same custom_id {custom_id[:64]!r}; give each its own."
                    )
                    errors.append(_mistake("duplicate_custom_id", words, number))
            if len(errors) >= MAX_ERRORS:
                break
        if not first and not errors:
            errors.append(_mistake("empty_file", "the input holds no requests; write one JSON object a line.", None))
        return errors

    def _answer(self, journal: Journal, source: Path) -> None:
        """Answer what is left; returns when all is done, or the job was cancelled or is over its time."""
        batches, job = self._batches, self._job
        if batches.loop is None:
            raise RuntimeError("jobs run after the server is open")
        self._told(journal.counts())  # after a restart, what was answered before
        salt = "" if batches.settings.share_cache else job.tenant
        self._model = ServedModel(
            batches.backend, batches.loop, salt, lambda: batches.is_stopped(job) is not None, batches.gate
        )
        names = replace(batches.names, default=job.model)
        rows = Rows(job.id, job.created, names, batches.backend.tokenizer)
        try:
            if job.endpoint == OCR:
                ocr = replace(batches.ocr, names=names)
                self._read(journal, OcrLines(ocr, source, rows, job.tenant), self._model)
            else:
                with_pages = partial(batches.ocr.with_pages, tenant=job.tenant)
                work = LineJob(source, rows, batches.settings.max_completions, with_pages)
                with closing(work):
                    run(journal, self._model, work.ask, work.accept, progress=lambda told: self._told(told.counts))
        except JobStoppedError:
            journal.release()
            reason = batches.is_stopped(job)
            if reason in (None, "closing"):
                raise
            job.ending = reason
        if job.ending == "expired":
            self._close_lines(journal)

    def _read(self, journal: Journal, lines: OcrLines, model: ServedModel) -> None:
        """Read the documents that are left; raises JobStoppedError."""
        while True:
            if self._batches.is_stopped(self._job) is not None:
                raise JobStoppedError("the job was told to stop.")
            items = journal.take(1)
            if not items:
                journal.flush()
                self._told(journal.counts())
                if not journal.counts().left:
                    return
                time.sleep(WAIT_S)
            for item in items:
                done = lines.done(item, model)
                journal.finish(item.id, done.result, failed=done.failed)
                self._told(journal.counts())

    def _told(self, counts: Counts) -> None:
        self._counts = counts

    def _close_lines(self, journal: Journal) -> None:
        """Give the lines that were not begun in time their rows."""
        rows = Rows(self._job.id, self._job.created, self._batches.names)
        error = BadRequestError(
            "the batch was over its time before this request was begun; send it again.", code="batch_expired"
        )
        while items := journal.take(TAKEN):
            for item in items:
                row = rows.never_asked(number_of(item.payload), json.loads(item.id), error)
                journal.finish(item.id, row, failed=True)
        journal.flush()

    def _finalize(self, journal: Journal) -> None:
        """Write the outputs from the journal, and make files of them; may be done again after a kill."""
        job, store = self._job, self._batches.store
        counts = journal.counts()
        if job.state != "finalizing":
            job.output = new_id()
            job.error = new_id() if counts.failed else None
            job.total, job.completed, job.failed = counts.total, counts.done, counts.failed
            job.usage = _usage_of(result.result for result in journal.results())
            self._enter("finalizing")
        out = self._folder / "output.jsonl"
        write_outputs(journal, out)
        store.adopt(out, self._output(str(job.output), out, counts.done, "output"))
        if job.error is not None:
            store.adopt(errors_path(out), self._output(job.error, errors_path(out), counts.failed, "error"))

    def _output(self, file_id: str, path: Path, lines: int, what: str) -> StoredFile:
        created = int(time.time())
        job = self._job
        return StoredFile(
            id=file_id, tenant=job.tenant, name=f"batch_{job.id}_{what}.jsonl", purpose="batch_output",
            size=path.stat().st_size, created=created, lines=lines, mimetype="application/jsonl",
            expires=self._batches.store.expiry(created, job.output_age_s),
            kind="batch_result" if what == "output" else "batch_error", source="mistral",
        )  # fmt: skip

    def _check_stopped(self) -> None:
        """Stop before anything was answered, if the job or the server is to end."""
        reason = self._batches.is_stopped(self._job)
        if reason == "closing":
            raise JobStoppedError("the server ends.")

    def _enter(self, state: str) -> None:
        self._batches.move(self._job, state)

    def _end(self, state: str) -> None:
        self._enter(state)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fail(self, errors: list[dict[str, object]]) -> None:
        self._job.errors = errors
        self._end("failed")


def _usage_of(rows: Iterator[str]) -> dict[str, int]:
    """Sum the tokens that output rows tell."""
    read = written = 0
    for row in rows:
        response: Mapping[str, Any] = json.loads(row).get("response") or {}
        usage = (response.get("body") or {}).get("usage") or {}
        read += usage.get("prompt_tokens", 0)
        written += usage.get("completion_tokens", 0)
    return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}


def _mistake(code: str, words: str, line: int | None) -> dict[str, object]:
    return {"code": code, "message": words, "line": line, "param": None}
