"""Records as they become complete, from a run in a thread of its own."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tessera.chat import ChatModel, Completion
from tessera.documents.assemble import assemble
from tessera.documents.extraction import Extraction, Options, item_ids
from tessera.documents.journal import Item, Journal
from tessera.documents.presets import Preset
from tessera.documents.record import Record
from tessera.documents.runner import Again, Done, run
from tessera.errors import TesseraError

MAX_READY = 64  # finished records that wait for whoever iterates


def extract_records(
    paths: Sequence[str | Path], preset: Preset, model: ChatModel, options: Options, journal: Path | None = None
) -> Iterator[Record]:
    """Yield each record as soon as all its pages are read; leaving the iteration ends the work.

    With `journal` a file keeps the results, and a later run goes on from it.
    """
    job = Extraction(paths, preset, options)
    job.model = model
    with (
        tempfile.TemporaryDirectory(prefix="tessera-") as folder,
        Journal.open(journal or Path(folder) / "journal", job.identity(model.model_name)) as opened,
    ):
        opened.add(job.plan())
        yield from _Stream(job, opened, model).records()


class _LeftError(Exception):
    """The iteration was left."""


class _Stream:
    """Records from a run in a thread of its own, as their units become complete."""

    def __init__(self, job: Extraction, journal: Journal, model: ChatModel) -> None:
        self.job, self.journal, self.model = job, journal, model
        self._ready: queue.Queue[Record | BaseException | None] = queue.Queue(MAX_READY)
        self._left = threading.Event()
        # Of each unit: its items' results so far.
        self._missing: dict[str, dict[str, str | None]] = {
            unit.id: dict.fromkeys(item_ids(unit, job.preset)) for unit in job.units if unit.windows
        }
        self._units = {each: unit for unit in job.units for each in self._missing.get(unit.id, ())}

    def records(self) -> Iterator[Record]:
        thread = threading.Thread(target=self._run, name="tessera-extract", daemon=True)
        thread.start()
        try:
            while (ready := self._ready.get()) is not None:
                if isinstance(ready, BaseException):
                    raise ready
                yield ready
        finally:
            self._left.set()
            while thread.is_alive():
                self._drain()
                thread.join(0.05)

    def _drain(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()

    def _run(self) -> None:
        try:
            for unit in self.job.units:
                if not unit.windows:
                    self._put(assemble(unit, [], self.job.preset))
            for result in self.journal.results():
                self._settle(result.id, result.result)
            run(self.journal, self.model, self.job.ask, self._accept)
            self._put(None)
        except _LeftError:
            pass
        except BaseException as error:
            self._put(error)

    def _accept(self, item: Item, reply: Completion | TesseraError) -> Done | Again:
        if self._left.is_set():
            raise _LeftError
        outcome = self.job.accept(item, reply)
        if isinstance(outcome, Done):
            self._settle(item.id, outcome.result)
        return outcome

    def _settle(self, identity: str, result: str) -> None:
        unit = self._units.get(identity)
        if unit is None:
            return
        results = self._missing[unit.id]
        results[identity] = result
        if None not in results.values():
            del self._missing[unit.id]
            self._put(assemble(unit, list(results.values()), self.job.preset))

    def _put(self, ready: Record | BaseException | None) -> None:
        while not self._left.is_set():
            try:
                self._ready.put(ready, timeout=0.1)
                return
            except queue.Full:
                continue
