"""What `extract` and `transcribe` share: the model is opened, the journal worked off, progress and counts reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel
from tessera.cli.batch import sigterm_as_interrupt
from tessera.cli.batch_models import Answering, Endpoints, LocalModel, on_ray, pool_of
from tessera.cli.parser import check_target
from tessera.cli.progress import showing
from tessera.cli.session import NANO_NOTE, say, stopping_is_said
from tessera.documents.api import budget_for, budget_of, calibration_of
from tessera.documents.extraction import Extraction, Options
from tessera.documents.journal import Journal
from tessera.documents.journal_file import files_of
from tessera.documents.limits import PageLimits
from tessera.documents.plan import REPLY_TOKENS, REPLY_TOKENS_PER_PAGE, Budget
from tessera.documents.presets import Preset
from tessera.documents.progress import Snapshot, described
from tessera.errors import (
    EngineBusyError,
    KeyRefusedError,
    ModelNotFoundError,
    TesseraError,
    UnreachableError,
    UsageError,
    counted,
)
from tessera.shelf import BUNDLED

MAX_SAID = 5  # errors and problems that are named one by one
STATED_S = 30.0  # of a server's silence, after which a dry run does without its answer


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options of one run. `settings` are the server's settings by name, for a model in this process."""

    paths: Sequence[str]
    out: Path
    journal: Path | None
    preset: Preset
    reading: Mapping[str, Any]  # fields of `Options`
    calibration: Path | None = None
    report: Path | None = None
    model: str | None
    endpoints: Sequence[str]
    api_key: str | None
    in_flight: int | None
    ray: str | None = None  # a cluster's address
    settings: Mapping[str, Any]
    retry_failed: bool
    force: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    also: Sequence[Path] = ()  # further files and folders that are written

    @property
    def journal_path(self) -> Path:
        return self.journal or self.out.with_name(f"{self.out.name}.journal")

    def options(self, **given: Any) -> Options:
        limits = PageLimits(max_pixels=self.settings["max_image_pixels"])
        return Options(**{**self.reading, "limits": limits, "skip": self.written, **given})

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that the run writes, which may lie among the documents."""
        report = [] if self.report is None else [self.report]
        return (self.out, *files_of(self.journal_path), *report, *self.also)

    @property
    def key(self) -> str | None:
        """The servers' key."""
        return self.api_key or os.environ.get("TESSERA_API_KEY")

    def note(self, text: str) -> None:
        if not self.quiet:
            say(text)


def passwords_in(file: Path) -> tuple[str, ...]:
    """Read a file of passwords, one a line; editors on Windows begin it with a mark."""
    try:
        return tuple(line for line in file.read_text(encoding="utf-8-sig").splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the password file {file} cannot be read ({type(error).__name__}); give a text file in UTF-8."
        ) from error


@contextmanager
def worked(job: Job, begin: Callable[[Options], Extraction]) -> Iterator[tuple[Extraction, Journal, ChatModel]]:
    """Work off a job, and yield it with its full journal, from which the output is written, and with the model."""
    _check_files(job)
    begin(job.options())  # mistakes show before a model is loaded
    with sigterm_as_interrupt(), _answering(job) as answering:
        opened = answering.open()
        calibration = calibration_of(opened, job.calibration)
        extraction = begin(job.options(budget=budget_of(opened), calibration=calibration))
        with Journal.open(job.journal_path, extraction.identity(answering.fingerprint), force=job.force) as journal:
            try:
                with stopping_is_said():
                    journal.add(extraction.plan())
                    if job.retry_failed:
                        job.note(
                            f"{counted(journal.retry_failed(), 'failed request is', 'failed requests are')} tried again"
                        )
                    _run(job, extraction, journal, opened)
            except (KeyboardInterrupt, TesseraError):
                counts = journal.counts()
                if counts.done + counts.failed:
                    say(
                        f"{counts.done + counts.failed:,} of "
                        f"{counted(counts.total, 'request is', 'requests are')} done and kept in "
                        f"{job.journal_path}; the same command goes on from there"
                    )
                raise
            yield extraction, journal, opened


def _check_files(job: Job) -> None:
    """Refuse output files that cannot be written, or that would replace one another or a document."""
    taken = {Path(path).absolute(): f"the document {path}" for path in job.paths}
    for name, file in (("--out", job.out), ("--report", job.report), ("the journal", job.journal_path)):
        if file is None:
            continue
        check_target(name, file)
        if (other := taken.setdefault(file.absolute(), name)) != name:
            raise UsageError(f"{name} and {other} are both {file}; give each its own file.")


def _run(job: Job, extraction: Extraction, journal: Journal, opened: ChatModel) -> None:
    counts = journal.counts()
    if not counts.left:
        return
    if counts.done + counts.failed:
        job.note(
            f"{counts.done + counts.failed:,} of {counted(counts.total, 'request is', 'requests are')} "
            "done already; going on"
        )
    last: list[Snapshot] = []
    with showing(as_json=job.as_json, quiet=job.quiet) as show:

        def progress(snapshot: Snapshot) -> None:
            last[:] = [snapshot]
            show(snapshot)

        extraction.run(journal, opened, progress)
    if last:
        job.note(described(last[0]))


def _answering(job: Job) -> Answering:
    if job.endpoints:
        servers = Endpoints(job.endpoints, job.model, job.key, job.in_flight, job.settings)
        return on_ray(servers, job.ray, job.in_flight)
    if job.api_key is not None:
        raise UsageError("--api-key is for servers, and no --endpoint is given; name one, or leave the key out.")
    if job.model is None:
        job.note(NANO_NOTE)
    return on_ray(LocalModel(job.model or BUNDLED, job.in_flight, job.settings), job.ray, job.in_flight)


def stated_budget(job: Job) -> Budget:
    """What the model takes that the job would ask, from its config or its server's list; else what Pixtral 12B does."""
    if job.endpoints:
        try:
            with pool_of(job.endpoints, job.model, job.key, job.settings, patience_s=0, timeout_s=STATED_S) as servers:
                return budget_of(servers)
        except KeyRefusedError:
            raise
        except (EngineBusyError, UnreachableError):
            job.note("no server answers, so tokens are estimated as Pixtral 12B's")
            return Budget()
    return budget_on_disk(job.model, job.settings["mmproj"], job.note)


def budget_on_disk(model: str | None, mmproj: Path | None, note: Callable[[str], None]) -> Budget:
    """What a model on this machine takes, from its config; what Pixtral 12B does, and a note, if it is not here."""
    from tessera.load import find_model
    from tessera.weights.checkpoint import open_checkpoint

    try:
        folder = find_model(model or BUNDLED)
    except ModelNotFoundError:
        note(f"{model} is not on this machine, so its tokens are estimated as Pixtral 12B's")
        return Budget()
    config = open_checkpoint(folder, mmproj).config
    return budget_for(config.vision_encoder, config.max_seq_len)


def planned(extraction: Extraction, readings: int) -> dict[str, int]:
    """Plan a job without asking anything, and count what it would do."""
    requests = sum(1 for _ in extraction.plan())
    units = extraction.units
    windows = [window for unit in units for window in unit.windows]
    return {
        "documents": len(units),
        "pages": sum(len(unit.keys) for unit in units),
        "blank pages": sum(len(unit.blank) for unit in units),
        "errors": sum(len(unit.errors) for unit in units),
        "requests": requests,
        "prompt tokens, about": readings * sum(unit.tokens for unit in units),
        "reply tokens, at most": readings
        * sum(REPLY_TOKENS + REPLY_TOKENS_PER_PAGE * len(window) for window in windows),
    }
