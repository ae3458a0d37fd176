"""One extraction's work: its documents are planned, asked about and become rows, over any restart.

It is a job like a batch, in the same table and behind the same gate. Its documents stay files of the key; the job's
folder holds the journal and the rows, until it is deleted or over its age.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tessera.chat import Completion
from tessera.documents.api import budget_for
from tessera.documents.assemble import assemble
from tessera.documents.extraction import Extraction, Options, item_ids
from tessera.documents.journal import Counts, Item, Journal
from tessera.documents.limits import PageLimits
from tessera.documents.plan import Unit
from tessera.documents.presets import Preset, named, open_preset
from tessera.documents.progress import Snapshot
from tessera.documents.reader import Passwords
from tessera.documents.runner import Again, Done, Question, run
from tessera.documents.stored import record_object
from tessera.errors import TesseraError
from tessera.server.backend import Backend
from tessera.server.batch_run import BatchRun
from tessera.server.batches import Batches, Job
from tessera.server.errors import BadRequestError
from tessera.server.extraction_rows import append, repaired, rows_file
from tessera.server.extraction_schemas import ExtractionOptions
from tessera.server.sealing import opened
from tessera.server.served_model import JobStoppedError, ServedModel
from tessera.server.settings import Settings


class _StoppedError(Exception):
    """The job stopped in the middle of a question: no result of that one."""


def preset_of(task: Mapping[str, Any]) -> Preset:
    """What a job asks of each document; raises UsageError."""
    strict = bool((task.get("options") or {}).get("strict_nulls"))
    given = task["schema"]
    return open_preset(given, strict_nulls=strict) if given else named(task["preset"], strict_nulls=strict)


def limits_of(settings: Settings) -> PageLimits:
    return PageLimits(
        max_pages=settings.max_ocr_pages, max_bytes=settings.max_file_bytes, max_pixels=settings.max_image_pixels
    )


def options_of(task: Mapping[str, Any], backend: Backend, settings: Settings, passwords: Passwords = ()) -> Options:
    """How a job reads; raises UsageError. `passwords` are those of paths."""
    budget = budget_for(backend.vision, backend.config.max_model_len)
    given = ExtractionOptions.model_validate(task.get("options") or {})
    return Options(
        pages=given.pages, tiles=given.tiles, detect_rotation=given.detect_rotation, verify=given.verify,
        retries=given.retries, max_error=given.max_error, budget=budget, limits=limits_of(settings),
        passwords=passwords,
    )  # fmt: skip


class ExtractionRun(BatchRun):
    """Works on one extraction in its thread, from whatever state it is in."""

    def __init__(self, batches: Batches, job: Job) -> None:
        super().__init__(batches, job)
        self._rows = rows_file(self._folder)
        self._units: dict[str, tuple[int, Unit]] = {}  # by each of their items, while they are not complete
        self._missing: dict[str, dict[str, str | None]] = {}  # of a unit: its items' results so far
        self._ready: list[str] = []  # rows to be written
        content = re.escape(str(batches.store.folder / "content"))
        self._address = re.compile(content.replace("/", r"\\?/") + r"/([0-9a-f-]{36})")

    def _work(self) -> None:
        job, batches = self._job, self._batches
        paths = [batches.store.path(each) for each in job.inputs]
        told = opened(batches.store.secret, job.task.get("locked"))
        passwords = {str(batches.store.path(each)): (told[each],) for each in job.inputs if each in told}
        options = options_of(job.task, batches.backend, batches.settings, passwords)
        options = replace(options, calibration=batches.calibration)
        extraction = Extraction(paths, preset_of(job.task), options)
        with Journal.open(self._folder / "journal", extraction.identity(job.served)) as journal:
            try:
                self._run(extraction, journal)
            except (JobStoppedError, _StoppedError):
                reason = batches.is_stopped(job)
                if reason in (None, "closing"):
                    raise JobStoppedError("the server ends.") from None
                journal.release()
                job.ending = reason
            self._write(journal)
            counts = journal.counts()
            job.total, job.completed, job.failed = counts.total, counts.done, counts.failed
        self._end(job.ending or "completed")

    def _run(self, extraction: Extraction, journal: Journal) -> None:
        job, batches = self._job, self._batches
        if job.served != batches.settings.model:
            raise BadRequestError(
                f"the extraction was begun with the model {job.served[:80]}, and the server now has "
                f"{batches.settings.model[:80]}; begin another.",
                code="model_changed",
            )
        if adapter_digest(batches, job.model) != job.task.get("adapter"):
            raise BadRequestError(
                f"the adapter {str(job.model)[:80]!r} has changed since the extraction began; begin another.",
                code="model_changed",
            )
        if batches.loop is None:
            raise RuntimeError("jobs run after the server is open")
        salt = "" if batches.settings.share_cache else job.tenant
        self._model = model = ServedModel(
            batches.backend, batches.loop, salt, lambda: batches.is_stopped(job) is not None, batches.gate,
            batches.names.adapter(job.model),
        )  # fmt: skip
        extraction.model = model
        journal.add(self._planned(extraction))
        job.task["documents"] = len(extraction.units)
        self._told(journal.counts())
        if job.state == "validating":
            self._enter("in_progress")
        self._begin_rows(extraction, journal)

        def ask(item: Item) -> Question:
            try:
                return extraction.ask(item)
            except JobStoppedError as error:
                raise _StoppedError from error

        def accept(item: Item, reply: Completion | TesseraError) -> Done | Again:
            try:
                outcome = extraction.accept(item, reply)
            except JobStoppedError as error:
                raise _StoppedError from error
            if isinstance(outcome, Done):
                self._settle(item.id, outcome.result, extraction.preset)
            return outcome

        def progress(snapshot: Snapshot) -> None:
            self._write(journal)
            self._told(snapshot.counts)

        run(journal, model, ask, accept, progress=progress)

    def _planned(self, extraction: Extraction) -> Iterator[tuple[str, str]]:
        for item in extraction.plan():
            if self._batches.is_stopped(self._job) is not None:
                raise JobStoppedError("the job was told to stop.")
            yield item

    def _begin_rows(self, extraction: Extraction, journal: Journal) -> None:
        """Write the rows that an earlier run owes, and those of documents about which nothing is asked."""
        written = repaired(self._rows)
        for number, unit in enumerate(extraction.units):
            if json.loads(self._shown(json.dumps(unit.id, ensure_ascii=False))) in written:
                continue
            ids = item_ids(unit, extraction.preset)
            if not ids:
                self._add(number, unit, [], extraction.preset)
                continue
            self._missing[unit.id] = dict.fromkeys(ids)
            self._units |= dict.fromkeys(ids, (number, unit))
        for result in journal.results():
            self._settle(result.id, result.result, extraction.preset)
        self._write(journal)

    def _settle(self, identity: str, result: str, preset: Preset) -> None:
        number, unit = self._units.pop(identity, (0, None))
        if unit is None:
            return
        results = self._missing[unit.id]
        results[identity] = result
        if None not in results.values():
            del self._missing[unit.id]
            self._add(number, unit, list(results.values()), preset)

    def _add(self, number: int, unit: Unit, results: list[str | None], preset: Preset) -> None:
        row = {"key": unit.id, "number": number, **record_object(assemble(unit, results, preset))}
        self._ready.append(self._shown(json.dumps(row, ensure_ascii=False)))

    def _shown(self, text: str) -> str:
        """Call files what their owner calls them."""
        names = self._job.task["names"]
        return self._address.sub(lambda found: json.dumps(names.get(found[1], "?"), ensure_ascii=False)[1:-1], text)

    def _write(self, journal: Journal) -> None:
        if self._ready:
            journal.flush()
            append(self._rows, self._ready)
            self._ready.clear()

    def _told(self, counts: Counts) -> None:
        self._counts = counts

    def _end(self, state: str) -> None:
        self._enter(state)


def adapter_digest(batches: Batches, name: str | None) -> str | None:
    """Return the content of the adapter that a job names; None without one. Raises ModelNotFoundError."""
    adapter = batches.backend.adapters.get(batches.names.adapter(name))
    return None if adapter is None else adapter.content.digest


def job_task(preset: str | None, schema: Mapping[str, Any] | None, options: ExtractionOptions | None,
             names: Mapping[str, str]) -> dict[str, Any]:  # fmt: skip
    """What a job's row keeps of a request."""
    told = {} if options is None else options.model_dump()
    return {"preset": preset, "schema": schema, "options": told, "names": dict(names), "documents": None}
