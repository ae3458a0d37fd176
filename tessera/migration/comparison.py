"""A comparison: two files of records become a summary, a report, a table and files for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tessera.documents.page import Page
from tessera.documents.presets import Preset
from tessera.errors import UsageError
from tessera.labels import read_labels
from tessera.machine import written_whole
from tessera.migration.agreement import Rules
from tessera.migration.cells import Compared, compare_records
from tessera.migration.exports import export_folders, open_exports
from tessera.migration.records import paired
from tessera.migration.report import Report
from tessera.migration.stored import cell_object
from tessera.migration.summary import Summary, Tally

NAMES = ("old", "new")
LEAST = 0.95  # share of values that must agree, if nothing else is said
LINES = ".jsonl"  # the ending of the table


class Sink(Protocol):
    """Takes compared documents one by one."""

    def add(self, compared: Compared) -> None: ...


class Labels:
    """True values by document: as a path, or as the documents are named here, such as by an earlier report."""

    def __init__(self, files: Sequence[Path], say: Callable[[str], None]) -> None:
        self._files = files
        self._used = 0
        self._by_path: dict[Path, dict[str, Any]] = {}
        self._by_name: dict[str, dict[str, Any]] = {}
        for file in files:
            for path, values in read_labels(file, say).items():
                self._by_path.setdefault(path.absolute(), {}).update(values)
                if path.is_relative_to(file.parent):
                    self._by_name.setdefault(str(path.relative_to(file.parent)), {}).update(values)

    def of(self, document: str) -> dict[str, Any] | None:
        found = self._by_path.get(Path(document).absolute(), {}) | self._by_name.get(document, {})
        self._used += bool(found)
        return found or None

    def check(self) -> None:
        """Raise UsageError if there are labels, and none was of a document here."""
        if self._files and not self._used:
            named = ", ".join(str(file) for file in self._files)
            raise UsageError(
                f"{named}: no label names one of these documents; paths are relative to the labels' folder."
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared how, and what is written. `page` gives a document's page by number, for images."""

    sides: tuple[str, str]
    preset: Preset
    page: Callable[[str, int], Page | None]
    labels: Labels
    rules: Rules = field(default_factory=Rules)
    least: float = LEAST
    report: Path | None = None
    out: Path | None = None
    exports: Sequence[str] = ()  # beside the report

    def write(self, files: tuple[Path, Path], facts: Sequence[Mapping[str, Any]]) -> tuple[Summary, list[Path]]:
        """Compare two files of records and write what is wanted; return the summary and the folders of exports."""
        with ExitStack() as stack:
            tally = Tally(self.sides)
            sinks: list[Sink] = [tally]
            report = None
            if self.report is not None:
                report = Report(self.report)
                stack.callback(report.close)
                sinks.append(report)
            beside = self.report or Path()  # `exports` need a report
            names = [str(told["served_as"]) for told in facts]
            exports = open_exports(self.exports, beside, self.sides, names, self.preset, self.page)
            sinks += exports.values()
            if self.out is not None:
                sinks.append(stack.enter_context(_Lines(self.out)))
            for old, new in paired(*files):
                compared = compare_records(old, new, self.preset, self.rules, self.labels.of(new.document))
                for sink in sinks:
                    sink.add(compared)
            self.labels.check()
            for side, told in zip(tally.sides, facts, strict=True):
                side.facts.update(told)
            summary = tally.summary(self.least)
            title = f"{self.sides[0]} and {self.sides[1]}"
            if report is not None:
                report.write(summary, self.page, title=title, schema=self.preset.schema.given)
            for export in exports.values():
                export.close(title)
        return summary, list(exports)


def written_beside(report: Path | None, out: Path | None, exports: Sequence[str]) -> list[Path]:
    """The files and folders that a comparison writes: if they lie among the documents, they are none of them."""
    found = [each for each in (report, out) if each is not None]
    return found if report is None else found + export_folders(exports, report)


def check_table(name: str, out: Path) -> None:
    """Refuse a table's name that says something else; raises UsageError."""
    if out.suffix != LINES:
        raise UsageError(f"{name} {out} does not end in {LINES}; every compared value is a line of it.")


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
