"""How far confidences can be trusted: labelled documents become samples, and samples a report.

Labels are true values by path. A value is right if it means the same as the label: "1.234,50" and 1234.5 are equal.
All numbers of a report are held out: no document's confidence comes from weights that saw it. Beside each is the
one before calibration, of the scores; nothing is fitted to those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tessera.documents.calibration import Calibration, Sample
from tessera.documents.curves import sigmoid
from tessera.documents.readings import agree
from tessera.documents.record import Field
from tessera.documents.spans import kind_of
from tessera.errors import counted
from tessera.evals.reliability import (
    Bin,
    auroc,
    bootstrap_interval,
    brier,
    calibration_error,
    caught_at,
    coverage_at,
    reliability,
)

ERRORS = (0.01, 0.05)
REVIEWED = 0.2
Metric = Callable[[Any, Any], float]
METRICS: dict[str, Metric] = {
    "calibration error (ECE)": calibration_error,
    "Brier score": brier,
    "AUROC": auroc,
    **{f"coverage at {error:.0%} error": partial(coverage_at, max_error=error) for error in ERRORS},
    f"wrong fields caught at {REVIEWED:.0%} reviewed": partial(caught_at, reviewed=REVIEWED),
}


@dataclass(frozen=True)
class Number:
    """A metric with its 95 % interval over documents."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "none" if math.isnan(self.value) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def as_json(self) -> list[float | None]:
        return [_finite(each) for each in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Report:
    """What labelled documents show of a calibration."""

    documents: int
    fields: int
    right: int
    numbers: Mapping[str, Number]
    diagram: Sequence[Bin]
    kinds: Mapping[str, tuple[int, int]]  # fields and right ones of each kind
    thresholds: Mapping[float, tuple[float | None, float]]  # by wanted error: the confidence, and the share above it
    before: Mapping[str, Number]  # the metrics of the scores, without a calibration

    def as_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents, "fields": self.fields, "right": self.right,
            "numbers": {name: each.as_json() for name, each in self.numbers.items()},
            "before": {name: each.as_json() for name, each in self.before.items()},
            "diagram": [[each.count, each.confidence, each.right] for each in self.diagram],
            "kinds": {kind: list(counts) for kind, counts in self.kinds.items()},
        }  # fmt: skip

    def markdown(self) -> str:
        """The report as tables; every number is held out."""
        share = self.right / self.fields if self.fields else 0.0
        lines = [
            f"{counted(self.documents, 'document')}, {counted(self.fields, 'field')}, {self.right} of them "
            f"right ({share:.1%})", "",
            "| measure (95 % interval) | score, before | confidence, held out |", "| --- | --- | --- |",
            *(f"| {name} | {self.before[name]} | {number} |" for name, number in self.numbers.items()), "",
            "| confidence | right | fields |", "| --- | --- | --- |",
            *(f"| {each.confidence:.3f} | {each.right:.3f} | {each.count} |" for each in self.diagram), "",
            "| kind of field | fields | right |", "| --- | --- | --- |",
            *(
                f"| {kind.replace('|', '&#124;')} | {count} | {right / count:.1%} |"
                for kind, (count, right) in self.kinds.items()
            ), "",
            *(_threshold_line(error, *each) for error, each in self.thresholds.items()),
        ]  # fmt: skip
        return "\n".join(lines)


def report_of(calibration: Calibration, samples: Sequence[Sample]) -> Report:
    """Measure a calibration by the held-out confidences of the samples it was fitted on."""
    confidences = [confidence for confidence, _ in calibration.held_out]
    scores = [float(sigmoid(sample.evidence[0])) for sample in samples]  # its log-odds are the first evidence
    right = [sample.right for sample in samples]
    documents = [sample.document for sample in samples]

    def measured(values: Sequence[float]) -> dict[str, Number]:
        return {
            name: Number(metric(values, right), *bootstrap_interval(metric, values, right, documents))
            for name, metric in METRICS.items()
        }

    kinds: dict[str, tuple[int, int]] = {}
    for sample in sorted(samples, key=lambda sample: sample.kind):
        count, hits = kinds.get(sample.kind, (0, 0))
        kinds[sample.kind] = count + 1, hits + sample.right
    thresholds = {}
    for error in ERRORS:
        threshold = calibration.threshold(error)
        above = 0 if threshold is None else sum(confidence >= threshold for confidence in confidences)
        thresholds[error] = threshold, above / max(len(samples), 1)
    return Report(
        len(set(documents)), len(samples), sum(right), measured(confidences), reliability(confidences, right), kinds,
        thresholds, measured(scores),
    )  # fmt: skip


def samples_of(document: str, fields: Iterable[Field], labels: Mapping[str, Any]) -> list[Sample]:
    """Return a sample for each field that has a label and its tokens' probabilities.

    A field of a list item is compared with the item of the same number: if an item is missing, those after it are
    wrong.
    """
    return [
        Sample(document, kind_of(field.path), field.evidence, agree(field.value, labels[field.path]))
        for field in fields
        if field.path in labels and field.evidence
    ]


def _threshold_line(error: float, threshold: float | None, share: float) -> str:
    if threshold is None:
        return f"At most {error:.0%} wrong: these labels do not show it at any confidence; all fields ask for review."
    return (
        f"At most {error:.0%} wrong (with 95 % certainty): from {threshold:.4f} on, which {share:.1%} of fields have."
    )


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
