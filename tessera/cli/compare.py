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

from tessera.cli.documents import Job, worked
from tessera.cli.parser import check_target
from tessera.cli.session import say
from tessera.documents.extraction import Extraction
from tessera.documents.journal_file import files_of
from tessera.documents.presets import Preset
from tessera.errors import UsageError, counted
from tessera.load import target_device
from tessera.machine import peak_bytes, reset_peak
from tessera.migration.agreement import Rules
from tessera.migration.comparison import NAMES, Comparison, Labels, check_table, written_beside
from tessera.migration.records import write_records
from tessera.migration.summary import Share, Summary

BELOW = 1  # the exit code of too little agreement


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
            also=[*files_of(self.journal(1 - number)), *written_beside(self.report, self.out, self.exports)],
        )  # fmt: skip

    def journal(self, number: int) -> Path:
        return self.report.with_name(f"{self.report.stem}.{NAMES[number]}.journal")


def run_compare(given: Comparing) -> int:
    """Read with both models, compare, write the report, and return the exit code."""
    rules = Rules(**given.rules)
    _check_files(given)
    labels = Labels(given.labels, say)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tessera-")))
        files = [folder / name for name in NAMES]
        facts = []
        for number, file in enumerate(files):
            if not given.quiet:
                say(f"{NAMES[number]}: {given.sides[number]}")
            facts.append(_read(given, number, file))
            gc.collect()  # the first model's memory is the second one's
        reader = Extraction(given.paths, given.preset, given.job(0).options()).reader
        comparison = Comparison(
            sides=given.sides, preset=given.preset, page=lambda *key: reader.pages([key])[0],
            labels=labels, rules=rules, least=given.least, report=given.report, out=given.out, exports=given.exports,
        )  # fmt: skip
        summary, exports = comparison.write((files[0], files[1]), facts)
    for export in exports if not given.quiet else ():
        say(f"the files for {export.suffix[1:]} are in {export}")
    _print(given, summary)
    return BELOW if summary.agreement.value < given.least else 0


def _check_files(given: Comparing) -> None:
    check_target("--report", given.report)
    taken = {given.report.absolute(): "--report"}
    if given.out is not None:
        check_target("--out", given.out)
        check_table("--out", given.out)
        if given.out.absolute() in taken:
            raise UsageError(f"--report and --out are both {given.out}; give each its own file.")
    for file in given.labels:
        if not file.is_file():
            raise UsageError(f"--labels {file} is no file; give true values as .jsonl or .csv.")


def _read(given: Comparing, number: int, file: Path) -> dict[str, Any]:
    """Read all documents with one model, write its records, and tell what it ran with."""
    device = target_device(given.settings["device"])
    reset_peak(device)
    job = given.job(number)
    with worked(job, lambda options: Extraction(given.paths, given.preset, options)) as (extraction, journal, model):
        write_records(file, extraction.records(journal))
        facts: dict[str, Any] = {
            "model": journal.facts()["model"],
            "served_as": model.model_name,
            **extraction.budget.facts(),
        }
        if not job.endpoints:
            facts["memory_bytes"] = peak_bytes(device)
    return facts


def _print(given: Comparing, summary: Summary) -> None:
    if given.as_json:
        print(json.dumps({"event": "compared", **summary.as_json(), "report": str(given.report)}), flush=True)
        return
    print(f"{counted(summary.documents, 'document')}, {counted(summary.agreement.count, 'value')}")
    width = max((len(each.name) for each in summary.fields), default=0)
    for each in summary.fields:
        notes = [f"{counted(each.new_errors, 'new error')}, {each.fixed} fixed"] if each.new_errors + each.fixed else []
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
