"""`tessera extract`: documents into a table; progress and counts on standard error, or events on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tessera import __version__
from tessera.cli.documents import MAX_SAID, Job, planned, stated_budget, worked
from tessera.cli.session import say
from tessera.documents.extraction import Extraction
from tessera.documents.journal import Journal
from tessera.documents.page import Page
from tessera.documents.record import Record
from tessera.documents.review.report import write_report
from tessera.documents.tables import Layout, check_format, write_table
from tessera.errors import counted

FAILED, REVIEW = 1, 3  # exit codes


@dataclass
class _Counts:
    """Counts records as they are written."""

    records: int = 0
    review: int = 0
    failed: int = 0
    said: list[str] = field(default_factory=list)

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self.records += 1
            self.failed += record.error is not None
            self.review += record.review and record.error is None
            if record.error is not None and len(self.said) < MAX_SAID:
                self.said.append(f"{record.document}: {record.error}: {record.message}")
            yield record


def run_extract(job: Job, *, csv_raw: bool) -> int:
    """Extract, write the table, and return the exit code."""
    check_format(job.out)
    if job.dry_run:
        _show_plan(job)
        return 0
    counts = _Counts()
    with worked(job, lambda options: Extraction(job.paths, job.preset, options)) as (extraction, journal, _):
        about = {
            "model": journal.facts()["model"],
            "schema": job.preset.name,
            "temperature": job.preset.temperature,
            "settings": journal.facts()["settings"],
            "calibrated": extraction.options.calibration is not None,
            "tessera": __version__,
        }
        layout = Layout(schema=job.preset.schema, about=about, csv_raw=csv_raw)
        write_table(job.out, counts.watch(extraction.records(journal)), layout)
        if job.report is not None:
            _write_report(job.report, extraction, journal)
    if job.as_json:
        told = {"records": counts.records, "review": counts.review, "failed": counts.failed, "out": str(job.out)}
        print(json.dumps({"event": "written", **told}), flush=True)
    for line in counts.said:
        say(line)
    if counts.failed > len(counts.said):
        say(f"and {counts.failed - len(counts.said):,} more, in {job.out}")
    good = counts.records - counts.review - counts.failed
    stand = counted(counts.records, "record is", "records are")
    job.note(f"{stand} in {job.out}: {good:,} good, {counts.review:,} for review, {counts.failed:,} failed")
    return FAILED if counts.failed else REVIEW if counts.review else 0


def _write_report(path: Path, extraction: Extraction, journal: Journal) -> None:
    def page(document: str, number: int) -> Page | None:
        found = extraction.reader.pages([(document, number)])[0]
        return found if isinstance(found, Page) else None

    calibration = extraction.options.calibration
    write_report(
        path,
        extraction.records(journal),
        page,
        title=extraction.preset.name,
        schema=extraction.preset.schema.given,
        metrics=None if calibration is None else calibration.report or None,
    )


def _show_plan(job: Job) -> None:
    options = job.options(budget=stated_budget(job))
    told = planned(Extraction(job.paths, job.preset, options), job.preset.readings)
    if job.as_json:
        print(json.dumps(told))
        return
    for name, count in told.items():
        print(f"{name}: {count:,}")
