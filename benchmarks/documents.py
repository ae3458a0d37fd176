"""`python -m benchmarks.documents`: records from receipts and invoices, beside Tesseract with regular expressions.

Papers of `benchmarks.papers` are read as scans and with text layers, through the presets. Confidences are held out:
fitted on other papers. A field is right if it means what is printed; a line item, if all of its values are. `--peer
NAME=PYTHON` adds a reader of `benchmarks.document_peers` that this Python has: rapidocr, pdfplumber or docling.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.document_peers import READERS, Reading, read
from benchmarks.papers import ITEM_KEYS, Sheet, sheets
from tessera.chat import ChatModel
from tessera.documents.api import extract
from tessera.documents.calibration import Sample, fit
from tessera.documents.readings import agree
from tessera.documents.record import Record
from tessera.errors import UsageError
from tessera.llm import LLM
from tessera.nano.calibrate import Tally
from tessera.trust import report_of, samples_of

AMOUNT = r"[^\d\n]*?([$€£]?\s?\d[\d,]*\.\d\d)\s*$"
DATE = r"(\d{4}-\d\d-\d\d|\d\d[./]\d\d[./]\d{4}|\d\d \w{3} \d{4})"
# What people write who know the labels; the vendor is the first line.
PATTERNS = {
    "date": rf"(?:^|\b){DATE}",
    "due": rf"(?:Due|Payable)[^\d\n]*{DATE}",
    "invoice_number": r"(?:Invoice (?:no\.|number|#)|No\.)\s*:?\s*(\S+)",
    "customer": r"Bill to:\s*(.+)",
    "subtotal": rf"^(?:Subtotal|Net(?: amount)?)\b{AMOUNT}",
    "tax": rf"^(?:Sales tax|Tax|VAT)\b{AMOUNT}",
    "total": rf"^(?:Total(?: due)?|Amount due|TOTAL)\b{AMOUNT}",
}
NAMES = {"net": "subtotal", "gross": "total"}
ITEM_LINES = {
    "receipt": r"^(?P<description>[A-Z].*?)\s+(?P<amount>[$€£]?\d[\d,]*\.\d\d)$",
    "invoice": r"^(?P<description>[A-Z].*?)\s+(?P<quantity>\d)\s+(?P<price>\S*\d\.\d\d)\s+(?P<amount>\S*\d\.\d\d)$",
}


@dataclass
class Score:
    """Counts over papers, of fields that are printed or claimed, and of line items."""

    right: int = 0
    claimed: int = 0
    printed: int = 0
    items: list[int] = field(default_factory=lambda: [0, 0, 0])  # right, claimed, printed
    seconds: float = 0.0
    processor_s: float = 0.0
    peak_mb: float = 0.0
    error: str = ""

    def add(self, sheet: Sheet, found: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        for key, true in sheet.values.items():
            value = found.get(key)
            self.printed += true is not None
            self.claimed += value is not None
            self.right += true is not None and value is not None and agree(value, true)
        left = list(sheet.items)
        for item in items:
            same = next((each for each in left if _same(item, each, ITEM_KEYS[sheet.kind])), None)
            if same is not None:
                left.remove(same)
                self.items[0] += 1
        self.items[1] += len(items)
        self.items[2] += len(sheet.items)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, self.claimed + self.printed)

    @property
    def group(self) -> float:
        right, claimed, printed = self.items
        return 2 * right / max(1, claimed + printed)


def _same(item: Mapping[str, Any], true: Mapping[str, str], keys: Sequence[str]) -> bool:
    return all(item.get(key) is not None and agree(item[key], true[key]) for key in keys)


def fields_in(text: str, sheet: Sheet) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Find a paper's fields and line items in its text."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip() != "Invoice"]
    found = {"vendor": lines[0]} if lines else {}
    sums = re.compile("|".join(PATTERNS[key] for key in ("subtotal", "tax", "total")), re.MULTILINE)
    for key in sheet.values:
        pattern = PATTERNS.get(NAMES.get(key, key))
        if pattern and (match := re.search(pattern, "\n".join(lines), re.MULTILINE)):
            found[key] = match[1]
    matches = (re.match(ITEM_LINES[sheet.kind], line) for line in lines if not sums.match(line))
    return found, [match.groupdict() for match in matches if match]


@dataclass
class Run:
    """A model's records of one form of the papers, and what they cost."""

    score: Score = field(default_factory=Score)
    samples: list[Sample] = field(default_factory=list)
    boxes: Tally = field(default_factory=Tally)
    failed: int = 0
    cached: int = 0
    prompt: int = 0
    reply: int = 0
    engine_s: float = 0.0  # processor time of the engine's thread; `score` has that of all threads

    def add(self, sheet: Sheet, record: Record) -> None:
        value = record.value or {}
        items = [each for each in value.get("items") or () if isinstance(each, Mapping)]
        self.score.add(sheet, value, items)
        self.failed += record.error is not None
        self.samples += samples_of(record.document, record.fields.values(), sheet.values)
        self.cached += record.usage.cached_tokens
        self.prompt += record.usage.prompt_tokens
        self.reply += record.usage.completion_tokens
        for key, true in sheet.places.items():
            got = record.fields.get(key)
            if got is not None and got.value is not None and agree(got.value, sheet.values[key]):
                self.boxes.add(got.box_source, got.box, true)


def measure(model: ChatModel, papers: Sequence[Sheet], retries: int) -> Run:
    """Extract the papers with their presets, and compare every value and place."""
    run = Run()
    began, engine, process = time.perf_counter(), _engine_seconds(), time.process_time()
    for kind in ("receipt", "invoice"):
        by_path = {str(sheet.path): sheet for sheet in papers if sheet.kind == kind}
        if by_path:
            for record in extract(list(by_path), f"preset:{kind}", model, retries=retries):
                run.add(by_path[record.document], record)
    run.score.seconds = time.perf_counter() - began
    run.engine_s, run.score.processor_s = _engine_seconds() - engine, time.process_time() - process
    run.score.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return run


def _engine_seconds() -> float:
    """Processor time of the engine's threads, as Linux counts it."""
    total = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith("tessera-engine"):
            numbers = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii").split()
            total += int(numbers[0]) / 1e9
    return total


def by_expressions(papers: Sequence[Sheet], reading: Reading) -> Score:
    """Score what regular expressions find in the texts of a reader, as people do without a model."""
    score = Score(
        seconds=reading.seconds, processor_s=reading.processor_s, peak_mb=reading.peak_mb, error=reading.error
    )
    for sheet, text in zip(papers, reading.texts, strict=False):
        score.add(sheet, *fields_in(text, sheet))
    return score


def table(runs: Mapping[str, Run], others: Mapping[str, Score], count: int) -> str:
    """Everything as Markdown."""
    lines = ["| papers, reader | field F1 | line items F1 | s/page | processor s/page | peak MB |", "| --- " * 6 + "|"]
    every = {f"{form}, model": run.score for form, run in runs.items()} | dict(others)
    for name, score in every.items():
        costs = f"{score.seconds / count:.2f} | {score.processor_s / count:.2f} | {score.peak_mb:.0f}"
        told = score.error or f"{score.f1:.3f} | {score.group:.3f} | {costs}"
        lines.append(f"| {name} | {told} |")
    for form, run in runs.items():
        lines += ["", f"{form}: {run.failed} of {count} records failed; {run.reply / count:.0f} reply and "
                  f"{run.prompt / count:.0f} prompt tokens a record, {run.cached / max(run.prompt, 1):.1%} of the "
                  f"prompt's from the cache; {run.engine_s / max(run.score.processor_s, 1e-9):.1%} of the processor "
                  "time in the model's engine.", "", run.boxes.markdown(), ""]  # fmt: skip
        try:
            report = report_of(fit(run.samples, ""), run.samples)
            lines += [f"- {name}: {number}" for name, number in report.numbers.items()]
        except UsageError as error:
            lines.append(f"No calibration: {error}")
    lines += ["", "Peak memory is without the child processes, which run PDFium or Tesseract."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents", description=__doc__)
    parser.add_argument("-m", "--model", default="nano")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter of the model")
    parser.add_argument("--papers", type=int, default=20, help="of each form; half are receipts, half invoices")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="may be given several times")
    given = parser.parse_args(argv)
    peers = {"tesseract": sys.executable} | dict(each.partition("=")[::2] for each in given.peer)
    if unknown := peers.keys() - READERS.keys():
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(READERS)}")
    with tempfile.TemporaryDirectory() as folder, LLM(given.model, adapter=given.adapter) as llm:
        forms = {
            "scans": sheets(Path(folder) / "scans", given.papers, scans=True),
            "text layer": sheets(Path(folder) / "text", given.papers, scans=False),
        }
        runs, others = {}, {}
        for form, papers in forms.items():
            runs[form] = measure(llm, papers, given.retries)
            for name, python in peers.items():
                if papers[0].path.suffix in READERS[name][1]:
                    reading = read(name, python, [sheet.path for sheet in papers])
                    others[f"{form}, {name} and expressions"] = by_expressions(papers, reading)
            print(f"{form}: read", flush=True)
    print(table(runs, others, given.papers))


if __name__ == "__main__":
    main()
