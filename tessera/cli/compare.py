"""`tessera compare`: two models read the same documents in turn, and their records become a report."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tessera.cli.calibrate import read_labels
from tessera.cli.documents import Job, worked
from tessera.cli.parser import check_target
from tessera.cli.session import say
from tessera.documents.extraction import Extraction
from tessera.documents.page import Page
from tessera.documents.presets import Preset
from tessera.errors import UsageError
from tessera.load import target_device
from tessera.machine import peak_bytes, reset_peak, written_whole
from tessera.migration.agreement import Rules
from tessera.migration.cells import Compared, compare_records
from tessera.migration.exports import open_exports
from tessera.migration.records import paired, write_records
from tessera.migration.report import Report
from tessera.migration.stored import cell_object
from tessera.migration.summary import Share, Summary, Tally

BELOW = 1  # the exit code of too little agreement
NAMES = ("old", "new")


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """The options of one run. `settings` are the server's settings by name, for models in this process."""

    sides: tuple[str, str]
    paths: Sequence[str]
    preset: Preset
    report: Path
    out: Path | None
    labels: Sequence[Path]
    exports: Sequence[str]
    least: float
    rules: Mapping[str, float]
    reading: Mapping[str, Any]
    settings: Mapping[str, Any]
    api_key: str | None
    in_flight: int | None
    retry_failed: bool
    force: bool
    as_json: bool
    quiet: bool

    def job(self, number: int) -> Job:
        """The extraction of one side."""
        given = self.sides[number]
        is_server = given.startswith(("http://", "https://"))
        address = urlsplit(given)
        name = (address.fragment or None) if is_server else given
        return Job(
            paths=self.paths, out=self.report, journal=self.journal(number), preset=self.preset, reading=self.reading,
            model=name, endpoints=[address._replace(fragment="").geturl()] if is_server else [],
            api_key=self.api_key if is_server else None, in_flight=self.in_flight, settings=self.settings,
            retry_failed=self.retry_failed, force=self.force, dry_run=False, as_json=self.as_json, quiet=self.quiet,
        )  # fmt: skip

    def journal(self, number: int) -> Path:
        return self.report.with_name(f"{self.report.stem}.{NAMES[number]}.journal")


class Labels:
    """True values by document: as a path, or as the documents are named here, such as by an earlier report."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.used = 0
        self._by_path: dict[Path, dict[str, Any]] = {}
        self._by_name: dict[str, dict[str, Any]] = {}
        for file in files:
            for path, values in read_labels(file).items():
                self._by_path.setdefault(path.absolute(), {}).update(values)
                if path.is_relative_to(file.parent):
                    self._by_name.setdefault(str(path.relative_to(file.parent)), {}).update(values)

    def of(self, document: str) -> dict[str, Any] | None:
        found = self._by_path.get(Path(document).absolute(), {}) | self._by_name.get(document, {})
        self.used += bool(found)
        return found or None


def run_compare(given: Comparing) -> int:
    """Read with both models, compare, write the report, and return the exit code."""
    rules = Rules(**given.rules)
    _check_files(given)
    labels = Labels(given.labels)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tessera-")))
        files = [folder / name for name in NAMES]
        facts = []
        for number, file in enumerate(files):
            if not given.quiet:
                say(f"{NAMES[number]}: {given.sides[number]}")
            facts.append(_read(given, number, file))
            gc.collect()  # the first model's memory is the second one's
        tally = Tally(given.sides)
        report = Report(given.report)
        stack.callback(report.close)
        sinks: list[Any] = [tally, report]
        reader = Extraction(given.paths, given.preset, given.job(0).options()).reader

        def page(document: str, number: int) -> Page | None:
            found = reader.pages([(document, number)])[0]
            return found if isinstance(found, Page) else None

        exports = open_exports(given.exports, given.report, given.sides, given.preset, page)
        sinks += exports.values()
        if given.out is not None:
            sinks.append(stack.enter_context(_Lines(given.out)))
        for old, new in paired(*files):
            compared = compare_records(old, new, given.preset, rules, labels.of(new.document))
            for sink in sinks:
                sink.add(compared)
        _check_labels(given, labels)
        for side, told in zip(tally.sides, facts, strict=True):
            side.facts.update(told)
        summary = tally.summary(given.least)
        title = f"{given.sides[0]} and {given.sides[1]}"
        report.write(summary, page, title=title, schema=given.preset.schema.given)
        for folder, export in exports.items():
            export.close(title)
            if not given.quiet:
                say(f"the files for {folder.suffix[1:]} are in {folder}")
    _print(given, summary)
    return BELOW if summary.agreement.value < given.least else 0


def _check_files(given: Comparing) -> None:
    check_target("--report", given.report)
    taken = {given.report.absolute(): "--report"}
    if given.out is not None:
        check_target("--out", given.out)
        if given.out.suffix != ".jsonl":
            raise UsageError(f"--out {given.out} does not end in .jsonl; every compared value is a line of it.")
        if given.out.absolute() in taken:
            raise UsageError(f"--report and --out are both {given.out}; give each its own file.")
    for file in given.labels:
        if not file.is_file():
            raise UsageError(f"--labels {file} is no file; give true values as .jsonl or .csv.")


def _check_labels(given: Comparing, labels: Labels) -> None:
    if given.labels and not labels.used:
        named = ", ".join(str(file) for file in given.labels)
        raise UsageError(f"{named}: no label names one of these documents; paths are relative to the labels' folder.")


def _read(given: Comparing, number: int, file: Path) -> dict[str, Any]:
    """Read all documents with one model, write its records, and tell what it ran with."""
    device = target_device(given.settings["device"])
    reset_peak(device)
    job = given.job(number)
    with worked(job, lambda options: Extraction(given.paths, given.preset, options)) as (extraction, journal, _):
        write_records(file, extraction.records(journal))
        budget = extraction.budget
        facts: dict[str, Any] = {
            "model": journal.facts()["model"],
            "image_side": budget.image_side,
            "context_tokens": budget.context_tokens,
            "instructions": "before the pages" if budget.instructions else "left out: the model is small",
        }
        if not job.endpoints:
            facts["memory_bytes"] = peak_bytes(device)
    return facts


class _Lines:
    """Writes every compared value as a line of JSON, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._written = written_whole(path)

    def __enter__(self) -> _Lines:
        self._file = self._written.__enter__().open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()
        self._written.__exit__(*error)

    def add(self, compared: Compared) -> None:
        record = compared.new if compared.new.pages else compared.old
        for cell in compared.cells:
            self._file.write(json.dumps(cell_object(cell, record), ensure_ascii=False) + "\n")


def _print(given: Comparing, summary: Summary) -> None:
    if given.as_json:
        print(json.dumps({"event": "compared", **summary.as_json(), "report": str(given.report)}), flush=True)
        return
    print(f"{summary.documents:,} documents, {summary.agreement.count:,} values")
    width = max((len(each.name) for each in summary.fields), default=0)
    for each in summary.fields:
        notes = [f"{each.new_errors} new errors, {each.fixed} fixed"] if each.new_errors + each.fixed else []
        notes += [f"{each.undecided} undecided"] if each.undecided else []
        print(f"  {each.name:<{width}}  {each.agreement}{'; ' if notes else ''}{', '.join(notes)}")
    names = given.sides if given.sides[0] != given.sides[1] else NAMES
    for name, right in zip(names, (summary.old_right, summary.new_right), strict=True):
        if isinstance(right, Share):
            print(f"right, by labels, {name}: {right}")
    for name, side in zip(names, summary.sides, strict=True):
        pages = max(1, side.pages)
        failed = sum(side.failed.values())
        codes = f" ({', '.join(sorted(side.failed))})" if failed else ""
        print(
            f"{name}: {side.seconds / pages:.2f} s a page in replies, {side.prompt_tokens / pages:,.0f} tokens "
            f"in, {side.completion_tokens / pages:,.0f} out; {failed:,} failed{codes}, "
            f"{side.refused:,} refused"
        )
    print(summary.decision)
    print(f"the report is {given.report}", file=sys.stderr)
