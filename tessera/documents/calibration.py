"""Calibration: from what speaks for a value to the probability that it is right, fitted on labelled documents.

A logistic regression (Platt) over all fields, and one for each kind of field with enough labels, drawn towards the
common one. Above a thousand labels a monotone step (isotonic regression) follows; with fewer it was worse than Platt
alone. A file belongs to one model: another model's probabilities mean something else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessera.documents.confidence import Features
from tessera.documents.curves import Floats, binomial_tail, isotonic, logistic, sigmoid
from tessera.errors import UsageError, counted, shown
from tessera.machine import disk_room, written_whole

FORMAT, VERSION = "tessera calibration", 1
NAME = "calibration.json"  # beside the weights of a model that comes with one
EVIDENCE = ("logit_product", "logit_mean", "logit_least", "log_length", "attention", "text", "reread")
MOST_LOGIT = 14.0  # beyond a probability of 1 - 1e-6, log-probabilities are rounding
RIDGE = 1.0  # pulls the common weights to 0
KIND_RIDGE = 5.0  # pulls a kind's weights to the common ones
KIND_LABELS, KIND_OUTCOMES = 50, 10  # a kind's labels, and those of each outcome, below which it has no weights
ISOTONIC_LABELS = 1000
FEWEST_LABELS = 20
FOLDS = 5
LEVEL = 0.05  # the chance that a threshold lets more errors through than wanted
GROWTH = 1.15  # of the number of accepted fields, from one tested threshold to the next
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Sample:
    """One field of a labelled document: its evidence, and if the value is right."""

    document: str
    kind: str
    evidence: tuple[float, ...]
    right: bool


def evidence_of(features: Features, attention: float | None, text: float, reread: float) -> tuple[float, ...]:
    """List what speaks for a value, in the order of EVIDENCE; what is not known is 0.

    `attention` is the mean weight with which the model looked at the value; `text` and `reread` are 1 if the text
    layer or a second reading agrees, -1 if it says something else.
    """
    return (
        _logit(features.log_product),
        _logit(features.log_mean),
        _logit(features.log_least),
        math.log(features.tokens),
        attention or 0.0,
        text,
        reread,
    )


@dataclass(frozen=True)
class Calibration:
    """Weights of the evidence, and the held-out confidences that thresholds are chosen by."""

    model: str  # the fingerprint of the model it was made with
    center: tuple[float, ...]
    scale: tuple[float, ...]
    common: tuple[float, ...]  # the weights of the constant and the evidence
    kinds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # isotonic: from confidences, to confidences
    held_out: tuple[tuple[float, bool], ...] = ()  # confidence and outcome, each by weights that never saw the document
    schema: str | None = None  # the digest of the schema that was extracted
    report: Mapping[str, Any] = field(default_factory=dict)

    def confidence(self, kind: str, evidence: Sequence[float]) -> float:
        """Return the probability that a value of this kind with this evidence is right."""
        weights = self.kinds.get(kind, self.common)
        row = (np.asarray(evidence) - self.center) / self.scale
        value = float(sigmoid(weights[0] + row @ np.asarray(weights[1:])))
        return value if self.steps is None else float(np.interp(value, *self.steps))

    def threshold(self, max_error: float) -> float | None:
        """Return the confidence from which on at most `max_error` of the values are wrong, with 95 % certainty.

        None if the labels do not show it at any confidence: then every field needs a look. Thresholds are tested
        from strict to loose until one fails, so that trying many costs no certainty (fixed sequence testing,
        arXiv 2110.01052); each test is the exact binomial one.
        """
        if max_error >= 1:
            return 0.0
        pairs = sorted(self.held_out, reverse=True)
        wrong = np.cumsum([not right for _, right in pairs])
        found = None
        count = fewest_labels(max_error, len(pairs))
        while count <= len(pairs):
            last = pairs[count - 1][0]
            while count < len(pairs) and pairs[count][0] == last:
                count += 1
            if binomial_tail(int(wrong[count - 1]), count, max_error) > LEVEL:
                break
            found = last
            if count == len(pairs):
                break
            count = min(max(count + 1, int(count * GROWTH)), len(pairs))
        return found

    def save(self, path: Path) -> None:
        outcomes = "".join("1" if right else "0" for _, right in self.held_out)
        values = {
            "format": FORMAT, "version": VERSION, "model": self.model, "schema": self.schema, "evidence": EVIDENCE,
            "center": self.center, "scale": self.scale, "common": self.common, "kinds": dict(self.kinds),
            "steps": self.steps, "held_out": {"confidence": [round(c, 6) for c, _ in self.held_out], "right": outcomes},
            "report": dict(self.report),
        }  # fmt: skip
        with disk_room(path.parent), written_whole(path) as partial:
            partial.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, model: str, *, force: bool = False) -> Calibration:
        """Read a file; raises UsageError if it is damaged, or another model's and not forced."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError
            version, made_with = values["version"], str(values["model"])
        except OSError as error:
            raise UsageError(f"{path} cannot be read; check the path of the calibration.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a calibration; `tessera extract calibrate` makes one.") from error
        if version != VERSION or tuple(values.get("evidence", ())) != EVIDENCE:
            raise UsageError(f"{path} has version {shown(version)} and this program reads {VERSION}; make it again.")
        if made_with != model and not force:
            raise UsageError(
                f"{path} was made with the model {shown(made_with)}, and this one is {shown(model)}: its confidences "
                "would be wrong; make one with `tessera extract calibrate`, or force its use."
            )
        try:
            return cls._of(values)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged; make it again with `tessera extract calibrate`.") from error

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Calibration:
        width = len(EVIDENCE)
        steps, held = values["steps"], values["held_out"]
        found = cls(
            model=str(values["model"]),
            center=_numbers(values["center"], width),
            scale=_numbers(values["scale"], width),
            common=_numbers(values["common"], width + 1),
            kinds={str(kind): _numbers(each, width + 1) for kind, each in values["kinds"].items()},
            steps=None if steps is None else (_numbers(steps[0]), _numbers(steps[1], len(steps[0]))),
            held_out=tuple(
                (value, right == "1") for value, right in zip(_numbers(held["confidence"]), held["right"], strict=True)
            ),
            schema=values["schema"],
            report=dict(values["report"]),
        )
        if not all(each > 0 for each in found.scale):
            raise ValueError
        return found


def fit(samples: Sequence[Sample], model: str, schema: Mapping[str, Any] | None = None) -> Calibration:
    """Fit a calibration; its held-out confidences are in the order of the samples.

    Raises UsageError if there are too few labels, or all are right or all wrong.
    """
    right = sum(sample.right for sample in samples)
    if len(samples) < FEWEST_LABELS or right in (0, len(samples)):
        raise UsageError(
            f"the labels cover {counted(len(samples), 'field')}, {right} of them right; at least "
            f"{FEWEST_LABELS} are needed, and both right and wrong ones. Label more documents."
        )
    held_out = [0.0] * len(samples)
    folds = folds_of({sample.document for sample in samples})
    for fold in set(folds.values()):
        part = _fit([sample for sample in samples if folds[sample.document] != fold], model)
        for index, sample in enumerate(samples):
            if folds[sample.document] == fold:
                held_out[index] = part.confidence(sample.kind, sample.evidence)
    whole = _fit(samples, model)
    pairs = tuple((value, sample.right) for value, sample in zip(held_out, samples, strict=True))
    return Calibration(
        model, whole.center, whole.scale, whole.common, whole.kinds, whole.steps, pairs, schema_digest(schema)
    )


def folds_of(documents: set[str]) -> dict[str, int]:
    """Deal documents to folds: the same in every run, and folds differ by at most one document."""
    order = sorted(documents, key=lambda each: hashlib.sha256(each.encode()).digest())
    return {document: number % FOLDS for number, document in enumerate(order)}


def schema_digest(schema: Mapping[str, Any] | None) -> str | None:
    if schema is None:
        return None
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def _fit(samples: Sequence[Sample], model: str) -> Calibration:
    rows = np.array([sample.evidence for sample in samples])
    right = np.array([sample.right for sample in samples], float)
    center, spread = rows.mean(0), rows.std(0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    rows = np.hstack([np.ones((len(rows), 1)), (rows - center) / scale])
    common = logistic(rows, right, np.zeros(rows.shape[1]), RIDGE)
    kinds = {}
    for kind, count in Counter(sample.kind for sample in samples).items():
        own = np.array([sample.kind == kind for sample in samples])
        hits = int(right[own].sum())
        if count >= KIND_LABELS and min(hits, count - hits) >= KIND_OUTCOMES:
            kinds[kind] = _plain(logistic(rows[own], right[own], common, KIND_RIDGE))
    found = Calibration(model, _plain(center), _plain(scale), _plain(common), kinds)
    if len(samples) < ISOTONIC_LABELS:
        return found
    values = np.array([found.confidence(sample.kind, sample.evidence) for sample in samples])
    return Calibration(model, found.center, found.scale, found.common, kinds, isotonic(values, right))


def fewest_labels(max_error: float, available: int) -> int:
    """Return the number of accepted labels to test first: with one error among them the wanted rate must be shown.

    Where there are not so many labels, none may be wrong.
    """
    if max_error <= 0:
        return available + 1
    for errors in (1, 0):
        count = errors + 1
        while binomial_tail(errors, count, max_error) > LEVEL and count <= available:
            count = count + 1 + count // 64
        if count <= available:
            return count
    return available + 1


def _logit(log_probability: float) -> float:
    """The log-odds of a probability given as its logarithm, within bounds."""
    if log_probability > -1e-9:
        return MOST_LOGIT
    odds = log_probability - math.log(-math.expm1(log_probability))
    return max(-MOST_LOGIT, min(odds, MOST_LOGIT))


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _numbers(values: Sequence[Any], count: int | None = None) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if not all(map(math.isfinite, found)) or (count is not None and len(found) != count):
        raise ValueError
    return found
