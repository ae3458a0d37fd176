"""How well confidences tell right from wrong: reliability, calibration error, coverage, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10  # of the calibration error, each with equally many samples
RESAMPLES = 1000


@dataclass(frozen=True)
class Bin:
    """Samples of neighbouring confidences: how many, their mean confidence, and the share that is right."""

    count: int
    confidence: float
    right: float


def reliability(confidences: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Sort the samples by confidence into bins of equal counts: the data of a reliability diagram.

    Equal confidences are spread over the bins like others, in the order given.
    """
    values, hits = _arrays(confidences, right)
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, min(bins, max(len(order), 1)))
    return [Bin(len(part), float(values[part].mean()), float(hits[part].mean())) for part in parts if len(part)]


def calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean distance of confidence and share right, over equal-count bins."""
    found = reliability(confidences, right, bins)
    count = sum(each.count for each in found)
    return math.fsum(each.count * abs(each.confidence - each.right) for each in found) / count if count else math.nan


def brier(confidences: ArrayLike, right: ArrayLike) -> float:
    """Return the mean squared distance of a confidence from 1 (right) or 0 (wrong)."""
    values, hits = _arrays(confidences, right)
    return float(((values - hits) ** 2).mean()) if len(values) else math.nan


def auroc(confidences: ArrayLike, right: ArrayLike) -> float:
    """Return the chance that a right sample has more confidence than a wrong one, equal ones counting half.

    NaN if all are right, or all wrong.
    """
    values, hits = _arrays(confidences, right)
    positives, negatives = int(hits.sum()), int(len(hits) - hits.sum())
    if not positives or not negatives:
        return math.nan
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal values share their mean rank
    return float((ranks[hits > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def coverage_at(confidences: ArrayLike, right: ArrayLike, max_error: float) -> float:
    """Return the largest share of samples, the most confident first, among which at most `max_error` are wrong."""
    values, hits = _arrays(confidences, right)
    if not len(values):
        return math.nan
    order = np.argsort(-values, kind="stable")
    counts = np.arange(1, len(order) + 1)
    errors = np.cumsum(1 - hits[order]) / counts
    # A threshold takes all samples of equal confidence, or none of them.
    ends = np.append(values[order][1:] != values[order][:-1], True)
    kept = counts[ends & (errors <= max_error + 1e-12)]
    return float(kept.max() / len(order)) if len(kept) else 0.0


def caught_at(confidences: ArrayLike, right: ArrayLike, reviewed: float) -> float:
    """Return the share of the wrong samples that is among the `reviewed` share of least confidence.

    Of equal confidences at the boundary, each counts by its chance to be among them; NaN if none is wrong.
    """
    values, hits = _arrays(confidences, right)
    wrong = 1 - hits
    if not wrong.sum():
        return math.nan
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    wrong_in_group = np.bincount(group, weights=wrong)
    before = np.cumsum(counts) - counts
    shares = np.clip(reviewed * len(values) - before, 0, counts) / counts
    return float((shares * wrong_in_group).sum() / wrong.sum())


def bootstrap_interval(
    metric: Callable[[ArrayLike, ArrayLike], float],
    confidences: ArrayLike,
    right: ArrayLike,
    groups: Sequence[object],
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return a metric's 95 % interval by drawing groups (documents) with replacement; seeded, NaN without any value.

    Fields of one document are right or wrong together, so single fields would give too narrow an interval.
    """
    values, hits = _arrays(confidences, right)
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [np.array(each) for each in members.values()]
    if not parts:
        return math.nan, math.nan
    random = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        drawn = np.concatenate([parts[index] for index in random.integers(0, len(parts), len(parts))])
        value = metric(values[drawn], hits[drawn])
        if not math.isnan(value):
            found.append(value)
    if not found:
        return math.nan, math.nan
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _arrays(confidences: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(confidences, np.float64), np.asarray(right, np.float64)
