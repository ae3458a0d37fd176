"""Extraction: documents in, records out, through any ChatModel and a journal.

Pages are read twice: once to plan, so that the work left is known, and once when they are asked about, so that few
are in memory. What a reply is worth is decided while its pages are at hand; windows are joined to records later.
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel, Completion, Usage
from tessera.documents import plan
from tessera.documents.assemble import assemble
from tessera.documents.journal import Counts, Item, Journal, identity_text
from tessera.documents.page import Page
from tessera.documents.plan import Budget, Unit
from tessera.documents.presets import Preset
from tessera.documents.progress import Progress
from tessera.documents.reader import Reader
from tessera.documents.answers import Answer, answer_of
from tessera.documents.record import Record
from tessera.documents.repeats import problem_of
from tessera.documents.rotation import detect_turn
from tessera.documents.runner import Again, Done, run
from tessera.errors import GrammarError, TesseraError, UsageError

MAX_RETRIES = len(plan.TEMPERATURES)
SLOWNESS = 64  # finished records that wait for whoever iterates


@dataclass(frozen=True, kw_only=True)
class Options:
    """How documents are read and asked about, beside the preset."""

    pages: str | None = None  # "1-5,8": of every document
    passwords: tuple[str, ...] = ()
    tiles: str | None = None  # auto, off or 2x2; None: what the preset says
    detect_rotation: bool | None = None  # ask the model which way is up; None: what the preset says
    retries: int = 4  # of a reply that loops, is cut or is no JSON
    max_error: float = 0.01  # share of wrong values among those not sent to review
    calibration: Any = None
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= MAX_RETRIES:
            raise UsageError(f"retries is {self.retries}; it must lie between 0 and {MAX_RETRIES}.", param="retries")
        if not 0 < self.max_error < 1:
            raise UsageError(f"max_error is {self.max_error}; it must lie between 0 and 1.", param="max_error")


class Extraction:
    """One run over documents: its plan, its questions, and what the replies are worth."""

    def __init__(self, paths: Sequence[str | Path], preset: Preset, model: ChatModel, options: Options) -> None:
        self.preset, self.model, self.options = preset, model, options
        self.reader = Reader(paths, options.pages, options.passwords)
        self.units: list[Unit] = []
        self._tried: dict[str, list[tuple[str | None, Completion]]] = {}
        self._shown: dict[str, tuple[list[Page], list[int]]] = {}  # pages and turns of the items in hand

    def identity(self) -> dict[str, str]:
        """What results depend on, for the journal."""
        preset = {name: value for name, value in asdict(self.preset).items() if name not in ("title", "reason", "name")}
        settings = {"pages": self.options.pages, "tiles": self.options.tiles, "retries": self.options.retries,
                    "rotation": self.options.detect_rotation, "max_error": self.options.max_error}  # fmt: skip
        digest = sha256(identity_text(preset).encode()).hexdigest()
        return {"work": "extract", "schema": f"{self.preset.name} {digest[:16]}", "model": self.model.model_name,
                "settings": identity_text(settings)}  # fmt: skip

    def plan(self) -> Iterator[tuple[str, str]]:
        """Read all pages once and yield the journal's items; `units` is filled by it."""
        seen: set[str] = set()
        with closing(self.reader.every()) as pages:
            for unit in plan.units(pages, self.preset, self.options.budget, self.options.tiles):
                if unit.id in seen:
                    continue
                seen.add(unit.id)
                self.units.append(unit)
                for number, window in enumerate(unit.windows):
                    keys = [unit.keys[position] for position in window]
                    for reading in range(self.preset.readings):
                        payload = json.dumps({"pages": keys, "reading": reading}, ensure_ascii=False)
                        yield item_id(unit, number, reading), payload

    def ask(self, item: Item) -> Any:
        """The question of an item; raises DocumentError if its pages cannot be rendered."""
        pages = self.reader.pages(_keys(item))
        turns = [self._turn(page) for page in pages]
        self._shown[item.id] = pages, turns
        return self._question(item, 0)

    def _question(self, item: Item, attempt: int) -> tuple[Any, Any]:
        pages, turns = self._shown[item.id]
        messages = plan.conversation(pages, self.preset, self.options.budget, tiles=self.options.tiles, turns=turns)
        return messages, plan.sampling(self.preset, len(pages), reading=_reading(item), attempt=attempt)

    def _turn(self, page: Page) -> int:
        wanted = self.options.detect_rotation
        wanted = self.preset.detect_rotation if wanted is None else wanted
        return detect_turn(self.model, page) if wanted and not page.words else 0

    def accept(self, item: Item, reply: Completion | TesseraError) -> Done | Again:
        """Keep a reply, ask again, or make the error the item's result."""
        tried = self._tried.setdefault(item.id, [])
        if isinstance(reply, GrammarError):
            raise reply  # the schema's fault, so every page's
        if isinstance(reply, Completion):
            problem = problem_of(reply, plain=self.preset.schema.plain)
            tried.append((problem, reply))
            if problem is not None and len(tried) <= self.options.retries:
                return Again(*self._question(item, len(tried)))
        elif not tried:
            self._forget(item)
            error = {"code": reply.code or "failed", "message": str(reply), "pages": _numbers(item)}
            return Done(json.dumps({"error": error}, ensure_ascii=False), failed=True)
        answer = self._answer(item)
        self._forget(item)
        return Done(answer.to_json(), review=answer.review)

    def _answer(self, item: Item) -> Answer:
        tried = self._tried[item.id]
        problem, best = max(tried, key=_worth)
        pages, _ = self._shown[item.id]
        answer = answer_of(
            best, pages, self.preset.schema, calibration=self.options.calibration, max_error=self.options.max_error
        )
        usage = _sum(reply.usage for _, reply in tried)
        seconds = sum(reply.timings.first_token_s + reply.timings.decode_s for _, reply in tried)
        return replace(answer, problem=problem, retried=len(tried) - 1, usage=usage, seconds=seconds)

    def _forget(self, item: Item) -> None:
        self._tried.pop(item.id, None)
        self._shown.pop(item.id, None)

    def run(self, journal: Journal, progress: Progress = lambda snapshot: None) -> Counts:
        """Plan, and work until every page has its result; raises what ends a run (see `runner.run`)."""
        journal.add(self.plan())
        return run(journal, self.model, self.ask, self.accept, progress=progress)

    def records(self, journal: Journal) -> Iterator[Record]:
        """Yield the records in the documents' order, from the journal's results, few of them in memory."""
        early: dict[str, str] = {}
        results = journal.results()
        for unit in self.units:
            wanted = item_ids(unit, self.preset)
            for result in results if not early.keys() >= set(wanted) else ():
                early[result.id] = result.result
                if early.keys() >= set(wanted):
                    break
            yield assemble(unit, [early.pop(each, None) for each in wanted], self.preset)


def item_id(unit: Unit, window: int, reading: int) -> str:
    return f"{unit.id}#{window}.{reading}"


def item_ids(unit: Unit, preset: Preset) -> list[str]:
    return [item_id(unit, number, reading) for number in range(len(unit.windows)) for reading in range(preset.readings)]


def extract_records(
    paths: Sequence[str | Path], preset: Preset, model: ChatModel, options: Options, journal: Path | None = None
) -> Iterator[Record]:
    """Yield each record as soon as all its pages are read; leaving the iteration ends the work.

    With `journal` a file keeps the results, and a later run goes on from it.
    """
    job = Extraction(paths, preset, model, options)
    with tempfile.TemporaryDirectory(prefix="tessera-") as folder:
        with Journal.open(journal or Path(folder) / "journal", job.identity()) as opened:
            opened.add(job.plan())
            yield from _Stream(job, opened).records()


class _Left(Exception):
    """The iteration was left."""


class _Stream:
    """Records from a run in a thread of its own, as their units become complete."""

    def __init__(self, job: Extraction, journal: Journal) -> None:
        self.job, self.journal = job, journal
        self._ready: queue.Queue[Record | BaseException | None] = queue.Queue(SLOWNESS)
        self._left = threading.Event()
        self._missing = {
            unit.id: dict.fromkeys(item_ids(unit, job.preset)) for unit in job.units
        }  # of each unit: its items' results so far
        self._units = {each: unit for unit in job.units for each in self._missing[unit.id]}

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
            run(self.journal, self.job.model, self.job.ask, self._accept)
            self._put(None)
        except _Left:
            pass
        except BaseException as error:
            self._put(error)

    def _accept(self, item: Item, reply: Completion | TesseraError) -> Done | Again:
        if self._left.is_set():
            raise _Left
        outcome = self.job.accept(item, reply)
        if isinstance(outcome, Done):
            self._settle(item.id, outcome.result)
        return outcome

    def _settle(self, identity: str, result: str) -> None:
        unit = self._units.get(identity)
        if unit is None:
            return
        results = self._missing[unit.id]
        results[identity] = result  # type: ignore[assignment]
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


def _keys(item: Item) -> list[tuple[str, int]]:
    return [(document, number) for document, number in json.loads(item.payload)["pages"]]


def _reading(item: Item) -> int:
    return int(json.loads(item.payload)["reading"])


def _numbers(item: Item) -> list[int]:
    return [number for _, number in _keys(item)]


def _worth(tried: tuple[str | None, Completion]) -> tuple[int, float]:
    """Order attempts: sound ones first, then by the mean log-probability; loops are sure of themselves, so last."""
    problem, reply = tried
    known = [entry.logprob for entry in reply.logprobs if entry.logprob is not None]
    mean = sum(known) / len(known) if known else 0.0
    return ("loop", "invalid", "length", None).index(problem), mean


def _sum(usages: Iterable[Usage]) -> Usage:
    told: list[Mapping[str, int]] = [asdict(usage) for usage in usages]
    return Usage(**{name: sum(each[name] for each in told) for name in asdict(Usage())})
