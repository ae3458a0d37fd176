"""`tessera extract calibrate`: documents with their true values become a calibration and a report on it."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.cli.parser import check_target
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.chat import ChatModel

MAX_LABELS = 100_000  # documents
MAX_LINE = 2**22  # characters
MAX_SAID = 5  # lines or documents without use that are named
Labels = dict[Path, dict[str, Any]]


@dataclass(frozen=True)
class Labelled:
    """What to calibrate on, and where to write it."""

    labels: Path
    schema: str
    out: Path
    verify: bool
    model: str | None
    endpoint: str | None


def run_calibrate(job: Labelled) -> None:
    from tessera.documents.api import extract
    from tessera.documents.calibration import Sample, fit
    from tessera.documents.presets import open_preset
    from tessera.trust import report_of, samples_of

    check_target("--out", job.out)
    preset = open_preset(job.schema)
    labels = read_labels(job.labels)
    paths = {path for values in labels.values() for path in values if path}
    names = sorted(path for path in paths if preset.schema.leaf(path) is None)
    _say_some(names, f"names in {job.labels} are no fields of the schema {preset.name}")
    samples: list[Sample] = []
    failed: list[str] = []
    with _open(job) as model:
        for number, record in enumerate(extract(list(labels), preset, model, verify=job.verify), 1):
            if record.error is not None:
                failed.append(f"{record.document}: {record.error}: {record.message}")
            elif (values := labels.get(Path(record.document))) is None:
                failed.append(f"{record.document}: the labels name what it lies in; name the document itself")
            else:
                samples += samples_of(record.document, record.fields.values(), values)
            _say(f"{number} of {len(labels)} documents, {len(samples)} labelled fields")
        _say_some(failed, "documents failed")
        calibration = fit(samples, model.fingerprint, preset.schema.wire)
    report = report_of(calibration, samples)
    replace(calibration, report=report.as_json()).save(job.out)
    print(report.markdown())
    _say(f"{job.out} is for --calibration, with this model only")


def read_labels(path: Path) -> Labels:
    """Read true values by document, from JSON lines or CSV; paths are relative to the file's folder.

    A line of JSON has "document" and "value" (the record) or "fields" (values by path, as a review exports them). A
    CSV has a column "document", and a column for each path; an empty cell is a value that the document lacks.
    """
    labels: Labels = {}
    mistakes: list[str] = []
    for number, (document, values) in enumerate(_rows(path, mistakes), 1):
        if number > MAX_LABELS:
            raise UsageError(f"{path} has more than {MAX_LABELS:,} labels; divide it.")
        labels.setdefault(path.parent / document, {}).update(values)
    _say_some(mistakes, "lines are passed over")
    if not labels:
        raise UsageError(f'{path} has no labels; each line needs "document" and "value", or a CSV column "document".')
    return labels


def _rows(path: Path, mistakes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
        try:
            yield from (_csv_rows if path.suffix == ".csv" else _json_rows)(file, mistakes)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not text in UTF-8; save it so.") from error
        except csv.Error as error:
            raise UsageError(f"{path} is not a CSV that can be read: {error}.") from error


def _csv_rows(file: Any, mistakes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(csv.DictReader(file), 2):
        document = row.pop("document", None)
        if not document:
            mistakes.append(f"line {number} names no document")
            continue
        yield document, {key: value or None for key, value in row.items() if isinstance(key, str)}


def _json_rows(file: Any, mistakes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    from tessera.trust import by_path

    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            mistakes.append(f"line {number} is not JSON")
            continue
        document = told.get("document") if isinstance(told, Mapping) else None
        # A row that `extract` wrote has both: there "fields" are objects with the values' evidence.
        value = told.get("value") or told.get("fields") if isinstance(told, Mapping) else None
        if not isinstance(document, str) or not isinstance(value, Mapping):
            mistakes.append(f'line {number} lacks "document" and "value"')
            continue
        try:
            values = by_path(value) if told.get("value") else dict(value)
        except RecursionError:
            mistakes.append(f"line {number} is nested too deeply")
            continue
        yield document, values


def _open(job: Labelled) -> ChatModel:
    if job.endpoint is not None:
        from tessera.client import Client

        return Client(job.endpoint, model=job.model, api_key=os.environ.get("TESSERA_API_KEY"))
    from tessera.llm import LLM

    return LLM(job.model or "nano")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_some(lines: list[str], what: str) -> None:
    if lines:
        _say(f"{len(lines):,} {what}: {'; '.join(lines[:MAX_SAID])}{'; ...' if len(lines) > MAX_SAID else ''}")
