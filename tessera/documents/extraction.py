"""Extraction: documents in, records out, through any ChatModel and a journal.

Pages are read twice: once to plan, so that the work left is known, and once when they are asked about, so that few
are in memory. What a reply is worth is decided while its pages are at hand; windows are joined to records later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel, Completion, Conversation, Usage
from tessera.documents import plan
from tessera.documents.answers import Answer, answer_of
from tessera.documents.assemble import assemble
from tessera.documents.calibration import Calibration
from tessera.documents.evidence import judge
from tessera.documents.headings import read_headings
from tessera.documents.journal import Counts, Item, Journal
from tessera.documents.limits import PageLimits
from tessera.documents.page import Page, PageError
from tessera.documents.plan import Asked, Budget, Unit
from tessera.documents.pointing import Locator
from tessera.documents.presets import Preset
from tessera.documents.progress import Progress
from tessera.documents.reader import Passwords, Reader
from tessera.documents.record import Field, Record
from tessera.documents.repeats import problem_of
from tessera.documents.reread import Rereader
from tessera.documents.rotation import PARAMS, Turning, detect_turn
from tessera.documents.runner import Again, Done, run
from tessera.errors import DeadEndError, DocumentError, GrammarError, TesseraError, UsageError
from tessera.messages import check_side
from tessera.sampling import SamplingParams

MAX_RETRIES = len(plan.TEMPERATURES)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How documents are read and asked about, beside the preset."""

    pages: str | None = None  # "1-5,8": of every document
    passwords: Passwords = field(default=(), repr=False)  # of all documents, or of each path its own
    tiles: str | None = None  # auto, off or 2x2; None: what the preset says
    max_image_side: int | None = None  # pixels along a page's longer edge, at most; None: what the preset says
    detect_rotation: bool | None = None  # ask the model which way is up; None: if preset and model allow it
    retries: int = 4  # of a reply that loops, is cut or is no JSON
    max_error: float = 0.01  # share of wrong values among those not sent to review
    calibration: Calibration | None = None
    verify: bool = False  # read each value again in the part of the page where it was found
    budget: Budget = field(default_factory=Budget)
    limits: PageLimits = field(default_factory=PageLimits)
    skip: tuple[Path, ...] = ()  # files in the folders that are no documents: what the run itself writes

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= MAX_RETRIES:
            raise UsageError(f"retries is {self.retries}; it must lie between 0 and {MAX_RETRIES}.", param="retries")
        check_side(self.max_image_side)
        if not 0 < self.max_error < 1:
            raise UsageError(f"max_error is {self.max_error}; it must lie between 0 and 1.", param="max_error")


class Extraction:
    """One run over documents: its plan, its questions, and what the replies are worth."""

    def __init__(self, paths: Sequence[str | Path], preset: Preset, options: Options) -> None:
        self.preset, self.options = preset, options
        self.budget = options.budget.limited(options.max_image_side or preset.max_image_side)
        self.model: ChatModel | None = None  # while it runs
        self.reader = Reader(paths, options.pages, options.passwords, options.limits, options.skip)
        self.units: list[Unit] = []
        self._tried: dict[str, list[tuple[str | None, Completion]]] = {}
        self._dead_ends: Counter[str] = Counter()  # of the items in hand, as is the next
        self._asked: dict[str, Asked] = {}
        self._turning: dict[str, tuple[Turning, Sequence[str]]] = {}  # with headings, of items asked about their turns
        self._read_headings: dict[tuple[str, int], Sequence[str]] = {}

    def identity(self, model: str) -> dict[str, str]:
        """What results depend on, for the journal; `model` identifies the model."""
        preset = {name: value for name, value in asdict(self.preset).items() if name not in ("title", "reason", "name")}
        settings = {"pages": self.options.pages, "tiles": self.options.tiles,
                    "max_image_side": self.options.max_image_side, "retries": self.options.retries,
                    "rotation": self.options.detect_rotation, "verify": self.options.verify,
                    "max_error": self.options.max_error}  # fmt: skip
        if (calibration := self.options.calibration) is not None:
            told = asdict(replace(calibration, report={}))
            settings["calibration"] = sha256(repr(told).encode()).hexdigest()[:16]
        digest = sha256(_text(preset).encode()).hexdigest()
        return {"work": "extract", "schema": f"{self.preset.name} {digest[:16]}", "model": model,
                "settings": _text(settings)}  # fmt: skip

    def plan(self) -> Iterator[tuple[str, str]]:
        """Read all pages once and yield the journal's items; `units` is filled by it."""
        seen: set[str] = set()
        with closing(self.reader.every()) as pages:
            asked = (page for page in pages if isinstance(page, PageError) or self.needs_model(page))
            for unit in plan.units(asked, self.preset, self.budget, self.options.tiles):
                if unit.id in seen:
                    continue
                seen.add(unit.id)
                self.units.append(unit)
                for number, window in enumerate(unit.windows):
                    keys = [unit.keys[position] for position in window]
                    for reading in range(self.preset.readings):
                        told: dict[str, Any] = {"pages": keys, "reading": reading}
                        if headings := unit.headings[number]:
                            told["headings"] = headings
                        elif number and self.preset.schema.lists and self.preset.images == 1:
                            told["first"] = [unit.keys[position] for position in unit.windows[0]]
                        payload = json.dumps(told, ensure_ascii=False)
                        yield item_id(unit, number, reading), payload

    def needs_model(self, page: Page) -> bool:
        """Return whether the model is asked about a page."""
        return True

    def ask(self, item: Item) -> tuple[Conversation, SamplingParams]:
        """The question of an item; raises DocumentError if its pages cannot be rendered."""
        headings = self._headings(item)  # first: the reader goes forward, and their page comes before these
        pages = self.reader.pages(_keys(item))
        for page in pages:
            if page.digest is not None and page.digest[:16] not in item.id:
                raise DocumentError(f"{page.document} has changed since it was planned; run it again.", code="changed")
        return self._next(item, Turning(pages, self._asks_turns), headings)

    def _next(self, item: Item, turning: Turning, headings: Sequence[str]) -> tuple[Conversation, SamplingParams]:
        """What to ask about an item now: which way its pages are up, then what is on them."""
        if (question := turning.question()) is not None:
            self._turning[item.id] = turning, headings
            return question, PARAMS
        self._asked[item.id] = plan.asked(
            turning.pages, self.preset, self.budget, tiles=self.options.tiles, turns=turning.turns, headings=headings
        )
        return self._question(item, 0)

    def _question(self, item: Item, attempt: int) -> tuple[Conversation, SamplingParams]:
        asked = self._asked[item.id]
        params = plan.sampling(self.preset, len(asked.pages), reading=_reading(item), attempt=attempt)
        return asked.messages, params

    @property
    def _asks_turns(self) -> bool:
        """Whether the model is asked which way pages without text are up: as wanted, or where it can tell."""
        wanted = self.options.detect_rotation
        return self.preset.detect_rotation and self.budget.rotation if wanted is None else wanted

    def _headings(self, item: Item) -> Sequence[str]:
        """The columns of a table before a window: from a text layer, else asked once of a document's first pages."""
        told = json.loads(item.payload)
        if "first" not in told or self.model is None or not self.budget.instructions:
            return tuple(told.get("headings", ()))
        keys = [(str(document), int(number)) for document, number in told["first"]]
        if keys[0] not in self._read_headings:
            self._read_headings = {keys[0]: self._first_headings(self.model, keys)}  # of the document in hand
        return self._read_headings[keys[0]]

    def _first_headings(self, model: ChatModel, keys: Sequence[tuple[str, int]]) -> Sequence[str]:
        """Ask about pages, each turned upright, until one has a table with headings."""
        for key in keys:
            (page,) = self.reader.pages([key])
            turn = detect_turn(model, page) if self._asks_turns and not page.words else 0
            side = plan.page_side(page, self.budget)
            if not page.words and (found := read_headings(model, page, side, turn)):
                return found
        return ()

    def accept(self, item: Item, reply: Completion | TesseraError) -> Done | Again:
        """Keep a reply, ask again, or make the error the item's result."""
        if item.id in self._turning:
            turning, headings = self._turning.pop(item.id)
            turning.take(reply)
            try:
                return Again(*self._next(item, turning, headings))
            except DocumentError as failure:  # its pages cannot be rendered
                reply = failure
        tried = self._tried.setdefault(item.id, [])
        if isinstance(reply, DeadEndError):
            self._dead_ends[item.id] += 1
            if (attempt := len(tried) + self._dead_ends[item.id]) <= self.options.retries:
                return Again(*self._question(item, attempt))
        elif isinstance(reply, GrammarError):
            raise reply  # the schema's fault, so every page's
        if isinstance(reply, Completion):
            schema = self.preset.schema
            problem = problem_of(reply, plain=schema.plain, wire=schema.wire)
            tried.append((problem, reply))
            attempt = len(tried) + self._dead_ends[item.id]
            if problem is not None and attempt <= self.options.retries:
                return Again(*self._question(item, attempt))
        elif not tried:
            self.forget(item)
            error = {"code": reply.code or "failed", "message": str(reply), "pages": _numbers(item)}
            return Done(json.dumps({"error": error}, ensure_ascii=False), failed=True)
        answer = self._answer(item)
        self.forget(item)
        return Done(answer.to_json(), review=answer.review)

    def _answer(self, item: Item) -> Answer:
        tried = self._tried[item.id]
        problem, best = max(tried, key=_worth)
        asked = self._asked[item.id]
        judged = {} if self.preset.schema.plain else self._judged(best, asked)
        answer = answer_of(best, asked.pages, self.preset.schema, judged)
        usage = _sum(reply.usage for _, reply in tried)
        seconds = sum(reply.timings.first_token_s + reply.timings.decode_s for _, reply in tried)
        return replace(answer, problem=problem, retried=len(tried) - 1, usage=usage, seconds=seconds)

    def _judged(self, reply: Completion, asked: Asked) -> dict[str, Field]:
        options, model = self.options, self.model
        locate = reread = None
        if model is not None:
            locate = Locator(model, asked.messages, asked.regions, asked.turns)
            reread = Rereader.of(model, asked.pages, asked.turned) if options.verify else None
        return judge(
            reply, self.preset.schema.wire, asked.pages, calibration=options.calibration,
            max_error=options.max_error, locate=locate, reread=reread,
        )  # fmt: skip

    def forget(self, item: Item) -> None:
        """Drop what is kept of an item that was asked: its pages and images."""
        self._tried.pop(item.id, None)
        self._dead_ends.pop(item.id, None)
        self._asked.pop(item.id, None)
        self._turning.pop(item.id, None)

    def run(self, journal: Journal, model: ChatModel, progress: Progress = lambda snapshot: None) -> Counts:
        """Work until every planned page has its result; raises what ends a run (see `runner.run`)."""
        self.model = model
        return run(journal, model, self.ask, self.accept, progress=progress)

    def records(self, journal: Journal) -> Iterator[Record]:
        """Yield the records in the documents' order, from the journal's results, few of them in memory."""
        early: dict[str, str] = {}
        known = {each for unit in self.units for each in item_ids(unit, self.preset)}
        results = (each for each in journal.results() if each.id in known)  # not of files as they were before
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


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


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
    return ("loop", "invalid", "shape", "length", None).index(problem), mean


def _sum(usages: Iterable[Usage]) -> Usage:
    told: list[Mapping[str, int]] = [asdict(usage) for usage in usages]
    return Usage(**{name: sum(each[name] for each in told) for name in asdict(Usage())})
