"""Calibration metrics against values by hand and brute force over all pairs and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.evals.reliability import (
    auroc,
    bootstrap_interval,
    brier,
    calibration_error,
    caught_at,
    coverage_at,
    reliability,
)

SAMPLES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40
)


def test_calibration_error_by_hand() -> None:
    confidences, right = [0.1, 0.3, 0.8, 1.0], [False, True, True, True]
    bins = reliability(confidences, right, bins=2)
    assert [(each.count, each.confidence, each.right) for each in bins] == [(2, 0.2, 0.5), (2, 0.9, 1.0)]
    assert calibration_error(confidences, right, bins=2) == pytest.approx((2 * 0.3 + 2 * 0.1) / 4)
    assert brier(confidences, right) == pytest.approx((0.01 + 0.49 + 0.04 + 0.0) / 4)


def test_confidences_that_are_the_true_chances_have_next_to_no_calibration_error() -> None:
    random = np.random.default_rng(3)
    chances = random.uniform(size=200_000)
    assert calibration_error(chances, random.uniform(size=200_000) < chances) < 0.005
    assert calibration_error(np.full(1000, 0.5), [1.0] * 1000) == pytest.approx(0.5)


@given(SAMPLES)
def test_auroc_is_the_share_of_pairs_in_the_right_order(samples: list[tuple[float, bool]]) -> None:
    confidences, right = zip(*samples, strict=True)
    pairs = [(p > n) + 0.5 * (p == n) for p, is_p in samples for n, is_n in samples if is_p and not is_n]
    found = auroc(confidences, right)
    assert math.isnan(found) if not pairs else found == pytest.approx(sum(pairs) / len(pairs))


@given(SAMPLES, st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0]))
def test_coverage_is_that_of_the_best_threshold(samples: list[tuple[float, bool]], max_error: float) -> None:
    confidences, right = zip(*samples, strict=True)
    best = 0.0
    for threshold in {*confidences}:
        kept = [ok for confidence, ok in samples if confidence >= threshold]
        if kept.count(False) / len(kept) <= max_error:
            best = max(best, len(kept) / len(samples))
    assert coverage_at(confidences, right, max_error) == pytest.approx(best)


def test_wrong_fields_caught_by_hand() -> None:
    confidences, right = [0.1, 0.2, 0.9, 0.95, 1.0], [False, True, False, True, True]
    assert caught_at(confidences, right, 0.2) == 0.5
    assert caught_at(confidences, right, 0.6) == 1.0
    assert caught_at([0.5] * 10, [False] * 2 + [True] * 8, 0.2) == pytest.approx(0.2)
    assert math.isnan(caught_at([0.5], [True], 0.2))


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    """For the share right of n independent groups it is the share plus and minus 1.96 standard errors."""
    right = [True] * 300 + [False] * 100
    low, high = bootstrap_interval(lambda _, hits: float(np.mean(hits)), [0.5] * 400, right, range(400))
    error = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == (pytest.approx(0.75 - error, abs=0.006), pytest.approx(0.75 + error, abs=0.006))


def test_fields_of_one_document_make_the_interval_wider() -> None:
    right = ([True] * 10 + [False] * 10) * 10
    each = bootstrap_interval(lambda _, hits: float(np.mean(hits)), [0.5] * 200, right, range(200))
    whole = bootstrap_interval(lambda _, hits: float(np.mean(hits)), [0.5] * 200, right, [n // 10 for n in range(200)])
    assert whole[1] - whole[0] > 2 * (each[1] - each[0])
