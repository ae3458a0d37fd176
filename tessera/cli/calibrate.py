"""`tessera extract calibrate`: documents with their true values become a calibration and a report on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.cli.parser import check_target
from tessera.cli.session import say
from tessera.errors import UsageError, counted

if TYPE_CHECKING:
    from tessera.chat import ChatModel


@dataclass(frozen=True)
class Labelled:
    """What to calibrate on, and where to write it."""

    labels: Path
    schema: str
    out: Path
    verify: bool
    model: str | None
    endpoint: str | None
    adapter: Path | None = None


def run_calibrate(job: Labelled) -> None:
    from tessera.documents.api import extract
    from tessera.documents.calibration import Sample, fit
    from tessera.documents.presets import open_preset
    from tessera.labels import read_labels, some_of
    from tessera.trust import report_of, samples_of

    check_target("--out", job.out)
    preset = open_preset(job.schema)
    labels = read_labels(job.labels, say)
    paths = {path for values in labels.values() for path in values if path}
    names = sorted(path for path in paths if preset.schema.leaf(path) is None)
    schema = f"of the schema {preset.name}"
    one, many = f"name in {job.labels} is no field {schema}", f"names in {job.labels} are no fields {schema}"
    for line in some_of(names, one, many):
        say(line)
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
            say(f"{number} of {counted(len(labels), 'document')}, {counted(len(samples), 'labelled field')}")
        for line in some_of(failed, "document failed", "documents failed"):
            say(line)
        calibration = fit(samples, model.fingerprint, preset.schema.wire)
    report = report_of(calibration, samples)
    replace(calibration, report=report.as_json()).save(job.out)
    print(report.markdown())
    say(f"{job.out} is for --calibration, with this model only")


def _open(job: Labelled) -> ChatModel:
    if job.endpoint is not None:
        from tessera.client import Client

        if job.adapter is not None:
            raise UsageError("--adapter is for a model in this process; name a server's adapter by --model.")
        return Client(job.endpoint, model=job.model, api_key=os.environ.get("TESSERA_API_KEY"))
    from tessera.llm import LLM

    return LLM(job.model or "nano", adapter=job.adapter)
