"""`tessera transcribe`: documents into Markdown, or into the shape of Mistral's /v1/ocr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

from tessera.cli.documents import MAX_SAID, Job, planned, stated_budget, worked
from tessera.cli.session import say
from tessera.documents.extraction import Options
from tessera.documents.transcripts import Transcript, Transcription, check_out, write_transcripts
from tessera.errors import counted

FAILED = 1


def run_transcribe(job: Job, *, from_image: bool) -> int:
    """Transcribe, write the output, and return the exit code."""
    check_out(job.out)

    def begin(options: Options) -> Transcription:
        return Transcription(job.paths, job.preset, options, from_image=from_image)

    if job.dry_run:
        told = planned(begin(job.options(budget=stated_budget(job))), 1)
        print(json.dumps(told) if job.as_json else "\n".join(f"{name}: {count:,}" for name, count in told.items()))
        return 0
    said: list[str] = []
    with worked(job, begin) as (extraction, journal, _):
        transcripts = _watched(cast(Transcription, extraction).transcripts(journal), said)
        pages, problems = write_transcripts(job.out, transcripts, journal.facts()["model"])
    if job.as_json:
        told_counts = {"pages": pages, "problems": problems, "out": str(job.out)}
        print(json.dumps({"event": "written", **told_counts}), flush=True)
    for line in said:
        say(line)
    job.note(f"{counted(pages, 'page is', 'pages are')} in {job.out}")
    if problems:
        say(f"{counted(problems, 'page has', 'pages have')} a problem, which is written in its place")
    return FAILED if problems else 0


def _watched(transcripts: Iterator[Transcript], said: list[str]) -> Iterator[Transcript]:
    """Pass pages on, and say of the first that have a problem which one."""
    for each in transcripts:
        if each.problem is not None and len(said) < MAX_SAID:
            said.append(f"{each.place}: {each.problem}")
        yield each
