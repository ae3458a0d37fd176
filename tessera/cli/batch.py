"""`tessera batch`: a file of requests answered into a file of replies, over any interruption.

The journal beside the output is the truth; the output is written from it when no line is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tessera.cli.batch_models import Answering, Endpoints, LocalModel, on_ray
from tessera.cli.parser import check_target
from tessera.cli.progress import showing
from tessera.cli.session import NANO_NOTE, say, stopping_is_said
from tessera.documents.journal import Counts, Journal
from tessera.documents.progress import Snapshot, described, event
from tessera.documents.runner import run
from tessera.errors import TesseraError, UsageError, counted
from tessera.shelf import BUNDLED


@dataclass(frozen=True)
class Batch:
    """The options of one run. `settings` are the server's settings by name, for a model in this process."""

    source: Path
    out: Path
    model: str | None
    endpoints: Sequence[str]
    api_key: str | None
    in_flight: int | None
    settings: Mapping[str, Any]
    journal: Path | None = None
    retry_failed: bool = False
    force: bool = False
    as_json: bool = False
    quiet: bool = False
    ray: str | None = None  # a cluster's address

    @property
    def journal_path(self) -> Path:
        return self.journal or self.out.with_name(f"{self.out.name}.journal")


def run_batch(batch: Batch) -> int:
    """Answer all lines and write the output; returns the exit code."""
    from tessera.server.jobs import digest_of, fill, write_outputs

    _check_files(batch)
    with sigterm_as_interrupt(), _answering(batch) as model:
        identity = {"input": digest_of(batch.source), "model": model.fingerprint, "settings": model.settings}
        with Journal.open(batch.journal_path, identity, force=batch.force) as journal:
            try:
                fill(journal, batch.source)
                _retry(journal, batch)
                last = _answered(batch, model, journal, identity["input"])
            except (KeyboardInterrupt, TesseraError):
                _say_how_to_go_on(batch, journal)
                raise
            errors = write_outputs(journal, batch.out)
            counts = journal.counts()
    return _report(batch, counts, last, errors)


def _answering(batch: Batch) -> Answering:
    if batch.endpoints:
        key = batch.api_key or os.environ.get("TESSERA_API_KEY")
        servers = Endpoints(batch.endpoints, batch.model, key, batch.in_flight, batch.settings)
        return on_ray(servers, batch.ray, batch.in_flight)
    if batch.api_key is not None:
        raise UsageError("--api-key is for servers, and no --endpoint is given; name one, or leave the key out.")
    if batch.model is None and not batch.quiet:
        say(NANO_NOTE)
    return on_ray(LocalModel(batch.model or BUNDLED, batch.in_flight, batch.settings), batch.ray, batch.in_flight)


def _check_files(batch: Batch) -> None:
    if not batch.source.is_file():
        what = "is a folder" if batch.source.is_dir() else "does not exist"
        raise UsageError(f"{batch.source} {what}; name a file of requests, one JSON object a line.")
    check_target("OUT", batch.out)
    paths = {"the input": batch.source, "OUT": batch.out, "the journal": batch.journal_path}
    names = list(paths)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if paths[name].absolute() == paths[other].absolute():
                raise UsageError(f"{name} and {other} are both {paths[name]}; give each its own file.")


def _retry(journal: Journal, batch: Batch) -> None:
    if batch.retry_failed:
        again = journal.retry_failed()
        if not batch.quiet:
            say(f"{counted(again, 'failed line is', 'failed lines are')} tried again")


def _answered(batch: Batch, model: Answering, journal: Journal, digest: str) -> Snapshot | None:
    """Answer what is left; returns the last snapshot, or None if nothing was left."""
    from tessera.server.jobs import LineJob
    from tessera.server.lines import Rows
    from tessera.server.names import Names

    counts = journal.counts()
    if not counts.left:
        return None
    if counts.done + counts.failed and not batch.quiet:
        say(
            f"{counts.done + counts.failed:,} of {counted(counts.total, 'line is', 'lines are')} done already; going on"
        )
    opened = model.open()
    last: list[Snapshot] = []
    rows = Rows(digest, int(journal.facts()["created"]), Names(tuple(model.names)), model.tokenizer)
    job = LineJob(batch.source, rows)
    try:
        with showing(as_json=batch.as_json, quiet=batch.quiet) as show, stopping_is_said():

            def progress(snapshot: Snapshot) -> None:
                last[:] = [snapshot]
                show(snapshot)

            run(journal, opened, job.ask, job.accept, progress=progress)
    finally:
        job.close()
    return last[0] if last else None


def _report(batch: Batch, counts: Counts, last: Snapshot | None, errors: Path | None) -> int:
    if batch.as_json:
        from tessera.chat import Usage

        print(event(last or Snapshot(counts, 0.0, 0.0, None, Usage()), "done"), flush=True)
    if not batch.quiet:
        if last is not None:
            say(described(last))
        say(f"{counted(counts.done, 'reply is', 'replies are')} in {batch.out}")
    if errors is not None:
        say(
            f"{counts.failed:,} of {counted(counts.total, 'line')} failed; the reasons are in {errors}. The "
            "same command with --retry-failed tries them again."
        )
    return 1 if errors is not None else 0


def _say_how_to_go_on(batch: Batch, journal: Journal) -> None:
    counts = journal.counts()
    if counts.total:
        say(
            f"{counts.done + counts.failed:,} of {counted(counts.total, 'line is', 'lines are')} done and kept "
            f"in {batch.journal_path}; the same command goes on from there"
        )


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C: results are kept and leases given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
