"""`tessera index`: a folder into an index; progress and counts on standard error, or events on standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.cli.batch import sigterm_as_interrupt
from tessera.cli.batch_models import LOCAL, Answering, Endpoints, LocalModel
from tessera.cli.documents import passwords_in
from tessera.cli.options import DEFAULT_MAX_PIXELS
from tessera.cli.progress import showing
from tessera.cli.search import note_index
from tessera.cli.session import NANO_NOTE, say, stopping_is_said
from tessera.documents.api import budget_of
from tessera.documents.extraction import Options
from tessera.documents.limits import PageLimits
from tessera.documents.presets import open_preset
from tessera.errors import UsageError, counted
from tessera.search.enrich import Enrichment, Reader
from tessera.search.scan import MAX_FILES, Counts, Reading, Scan
from tessera.search.store import NAME, writing
from tessera.search.writer import Writer
from tessera.shelf import BUNDLED

FAILED = 1
MAX_SAID = 5  # errors that are named one by one
LINE_S = 5.0  # between two plain lines


@dataclass(frozen=True, kw_only=True)
class Adding:
    """What a model adds, and which one."""

    transcribe: str | None = None  # never, missing or always; None: missing if a model is named
    describe: bool = False
    vectors: bool = False
    preset: str | None = None
    model: str | None = None
    endpoints: tuple[str, ...] = ()
    api_key: str | None = None
    in_flight: int | None = None
    dtype: str = "auto"
    device: str = "auto"

    @property
    def reads(self) -> str:
        return self.transcribe or ("missing" if self.model is not None or self.endpoints else "never")

    @property
    def wanted(self) -> bool:
        return self.reads != "never" or self.describe or self.vectors or self.preset is not None

    def answering(self) -> Answering:
        """The model, not opened yet. Raises UsageError."""
        settings = {
            **LOCAL, "dtype": self.dtype, "device": self.device, "served_model_name": (),
            "allowed_local_media_path": None, "max_image_pixels": DEFAULT_MAX_PIXELS, "allow_private_addresses": False,
        }  # fmt: skip
        if not self.endpoints:
            return LocalModel(self.model or BUNDLED, self.in_flight, settings)
        key = self.api_key or os.environ.get("TESSERA_API_KEY")
        return Endpoints(self.endpoints, self.model, key, self.in_flight, settings)


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """The options of one run."""

    adding: Adding

    folder: Path
    out: Path | None
    password_file: Path | None
    thumbnails: bool
    retry_failed: bool
    as_json: bool
    quiet: bool

    @property
    def file(self) -> Path:
        return self.out or self.folder / NAME


def run_index(given: Indexing) -> int:
    """Index, report, and return the exit code."""
    if not given.folder.is_dir():
        raise UsageError(f"{given.folder} is no folder; name the folder of the documents.")
    passwords = () if given.password_file is None else passwords_in(given.password_file)
    show = _shower(given)
    with sigterm_as_interrupt(), stopping_is_said(), writing(given.file, given.folder) as connection:
        writer = Writer(connection)
        if given.retry_failed:
            writer.forget_errors()
        reading = Reading(passwords=passwords, thumbnails=given.thumbnails)
        scan = Scan(given.folder, given.file, writer, reading, show)
        try:
            counts = scan.run()
        except KeyboardInterrupt:
            writer.commit()
            say(
                f"{counted(scan.counts.pages, 'page is', 'pages are')} kept in {given.file}; the same command "
                "goes on from there"
            )
            raise
        if given.adding.wanted:
            _add(given, writer, counts)
        tables = {"files": "files", "pages": "pages", "wanted": "pages WHERE wanted"}
        totals = {
            name: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for name, table in tables.items()
        }
    note_index(given.file)
    _report(given, counts, totals)
    return FAILED if counts.failed else 0


def _add(given: Indexing, writer: Writer, counts: Counts) -> None:
    """Have a model read what is wanted; the index is written page by page, so a later run goes on."""
    adding = given.adding
    fields = None if adding.preset is None else open_preset(_named(adding.preset))
    began = time.monotonic()
    with adding.answering() as answering:
        if not adding.endpoints and adding.model is None and not given.quiet:
            say(NANO_NOTE)
        opened = answering.open()
        options = Options(budget=budget_of(opened), limits=PageLimits(max_files=MAX_FILES))
        with showing(as_json=given.as_json, quiet=given.quiet) as show:
            reader = Reader(opened, answering.fingerprint, options, show)
            journal = given.file.absolute().with_name(f"{given.file.name}.journal")
            job = Enrichment(given.folder, writer, journal, reader, counts)
            if adding.reads != "never":
                job.transcribe(open_preset("preset:transcribe"), always=adding.reads == "always")
            if fields is not None:
                job.extract(fields)
            if adding.vectors:
                job.embed()
            if adding.describe:
                job.describe()
    counts.seconds += time.monotonic() - began


def _named(preset: str) -> str:
    return preset if ":" in preset or preset.endswith((".yaml", ".yml", ".json")) else f"preset:{preset}"


def _shower(given: Indexing) -> Callable[[Counts], None]:
    shown = 0.0

    def show(counts: Counts) -> None:
        nonlocal shown
        if given.quiet and not given.as_json:
            return
        if time.monotonic() - shown < (1.0 if given.as_json else LINE_S):
            return
        shown = time.monotonic()
        if given.as_json:
            print(json.dumps({"event": "progress", **_told(counts)}), flush=True)
        else:
            rate = counts.pages / max(counts.seconds, 0.001)
            print(
                f"{counted(counts.files, 'file')}, {counted(counts.pages, 'page')} read, {rate:.1f} a second",
                file=sys.stderr,
                flush=True,
            )

    return show


def _told(counts: Counts) -> dict[str, object]:
    return {**{name: value for name, value in asdict(counts).items() if name != "errors"},
            "seconds": round(counts.seconds, 3)}  # fmt: skip


def _report(given: Indexing, counts: Counts, totals: dict[str, int]) -> None:
    if given.as_json:
        errors = [dict(zip(("file", "page", "code", "message"), each, strict=True)) for each in counts.errors]
        print(json.dumps({"event": "indexed", **_told(counts), "index": totals, "errors": errors,
                          "out": str(given.file)}), flush=True)  # fmt: skip
        return
    for name, number, code, message in counts.errors[:MAX_SAID]:
        say(f"{name}{f', page {number}' if number else ''}: {code}: {message}")
    if counts.failed > MAX_SAID:
        say(f"and {counts.failed - MAX_SAID:,} more; `tessera search 'code:*' --index {given.file}` lists them")
    if not given.quiet:
        changes = ((counts.added, "added"), (counts.changed, "changed"), (counts.moved, "moved"),
                   (counts.removed, "removed"), (counts.unchanged, "as before"))  # fmt: skip
        told = ", ".join(f"{number:,} {name}" for number, name in changes if number) or "none"
        say(
            f"{counted(totals['pages'], 'page')} of {counted(totals['files'], 'file')} in {given.file}: files {told}; "
            f"{counted(counts.pages, 'page')} read, {counts.model_pages:,} by the model, "
            f"{counted(counts.records, 'record')}, in "
            f"{counts.seconds:.1f} s"
        )
        if wanted := totals["wanted"]:
            say(
                f"{counted(wanted, 'page has', 'pages have')} no text layer; -m MODEL or --endpoint URL "
                "reads what has none"
            )
