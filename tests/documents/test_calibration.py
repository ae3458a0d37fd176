"""Calibration against closed forms, brute force, and draws whose true chances are known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from itertools import combinations, pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.documents.api import calibration_of
from tessera.documents.calibration import (
    EVIDENCE,
    Calibration,
    Sample,
    evidence_of,
    fewest_labels,
    fit,
    folds_of,
)
from tessera.documents.confidence import Features
from tessera.documents.curves import binomial_tail, isotonic, logistic
from tessera.errors import UsageError
from tessera.evals.reliability import calibration_error
from tests.documents.fakes import Scripted


def drawn(count: int, seed: int = 0, kinds: tuple[str, ...] = ("total",)) -> list[Sample]:
    """Samples that are right with the chance sigmoid(2 x - 1) of their first evidence x."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        x = random.normal()
        right = bool(random.uniform() < 1 / (1 + math.exp(1 - 2 * x)))
        samples.append(Sample(f"d{number // 4}", kinds[number % len(kinds)], (x, *[0.0] * (len(EVIDENCE) - 1)), right))
    return samples


def test_logistic_of_a_constant_is_the_log_odds() -> None:
    rows, right = np.ones((10, 1)), np.array([1.0] * 7 + [0.0] * 3)
    assert logistic(rows, right, np.zeros(1), 1e-9)[0] == pytest.approx(math.log(7 / 3), abs=1e-6)


def test_logistic_is_where_no_small_step_lowers_the_loss() -> None:
    random = np.random.default_rng(1)
    rows, right = random.normal(size=(60, 3)), (random.uniform(size=60) < 0.4).astype(float)
    prior = np.array([0.5, -0.5, 0.0])

    def loss(weights: np.ndarray) -> float:
        chances = 1 / (1 + np.exp(-rows @ weights))
        logs = right * np.log(chances) + (1 - right) * np.log(1 - chances)
        return float(-logs.sum() + 2.0 / 2 * ((weights - prior) ** 2).sum())

    found = logistic(rows, right, prior, 2.0)
    for axis in np.eye(3):
        assert all(loss(found + step * axis) > loss(found) for step in (-1e-3, 1e-3))


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_isotonic_pools_are_the_best_monotone_fit(right: list[bool]) -> None:
    """Brute force over all ways to cut the samples into pools: the least squared error among the monotone ones."""
    hits = np.array(right, float)
    count = len(hits)
    best, best_levels = math.inf, np.zeros(count)
    for number in range(count):
        for cuts in combinations(range(1, count), number):
            parts = np.split(hits, cuts)
            means = [part.mean() for part in parts]
            levels = np.concatenate([np.full(len(part), mean) for part, mean in zip(parts, means, strict=True)])
            if all(a < b for a, b in pairwise(means)) and ((hits - levels) ** 2).sum() < best:
                best, best_levels = float(((hits - levels) ** 2).sum()), levels
    values = np.arange(count) / 10
    points, levels = isotonic(values, hits)
    pools = np.split(np.arange(count), np.flatnonzero(np.diff(best_levels)) + 1)
    assert points == pytest.approx([values[pool].mean() for pool in pools])
    expected = [(hits[pool].sum() + 0.5) / (len(pool) + 1) for pool in pools]
    assert levels == pytest.approx(np.maximum.accumulate(expected))


def test_binomial_tail_is_the_sum_of_exact_terms() -> None:
    exact = sum(comb(50, k) * 0.03**k * 0.97 ** (50 - k) for k in range(4))
    assert binomial_tail(3, 50, 0.03) == pytest.approx(exact)
    assert 0.99**299 < 0.05 < 0.99**298  # so 299 labels without an error show 1 %
    assert binomial_tail(0, 299, 0.01) < 0.05 < binomial_tail(0, 298, 0.01)
    assert 299 <= fewest_labels(0.01, 305) <= 305
    assert fewest_labels(0.01, 298) == 299  # more than there are


def test_known_chances_are_found_again() -> None:
    samples = drawn(8000)
    found = fit(samples, "m")
    for x in (-1.0, 0.0, 0.5, 1.5):
        evidence = (x, *[0.0] * (len(EVIDENCE) - 1))
        assert found.confidence("total", evidence) == pytest.approx(1 / (1 + math.exp(1 - 2 * x)), abs=0.04)
    values, right = zip(*found.held_out, strict=True)
    assert calibration_error(values, right) < 0.03


def test_a_kind_with_few_labels_has_the_common_weights() -> None:
    samples = [*drawn(400), *drawn(30, 5, ("rare",))]
    found = fit(samples, "m")
    assert set(found.kinds) == {"total"}
    assert found.confidence("rare", samples[0].evidence) == found.confidence("never seen", samples[0].evidence)


def test_a_kind_with_many_labels_has_its_own() -> None:
    flipped = [dataclasses.replace(s, kind="odd", right=not s.right) for s in drawn(2000, 9)]
    found = fit([*drawn(2000), *flipped], "m")
    low, high = ((x, *[0.0] * (len(EVIDENCE) - 1)) for x in (-1.5, 1.5))
    assert [found.confidence("total", x) > 0.8 for x in (low, high)] == [False, True]
    assert [found.confidence("odd", x) > 0.8 for x in (low, high)] == [True, False]


def test_documents_are_whole_in_one_fold() -> None:
    sizes = Counter(folds_of({f"d{n}" for n in range(11)}).values())
    assert sorted(sizes.values()) == [2, 2, 2, 2, 3]


def test_a_threshold_keeps_the_wanted_error_on_new_documents_nearly_always() -> None:
    """95 % certainty: of many calibrations, few give a threshold whose true error is above the wanted."""
    too_many = given_up = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        chances = random.uniform(0.5, 1.0, 600)
        held = tuple((float(p), bool(random.uniform() < p)) for p in chances)
        threshold = Calibration("m", (), (), (), held_out=held).threshold(0.1)
        if threshold is None:
            given_up += 1
        elif (1 - (threshold + 1) / 2) > 0.1:  # the mean error of uniform chances above the threshold
            too_many += 1
    assert too_many <= 7  # 3 expected at most; 8 or more of 60 at 5 % happen in 1 of 100 runs
    assert given_up <= 20


def test_without_enough_labels_there_is_no_threshold() -> None:
    held = tuple((1 - n / 1000, True) for n in range(200))
    found = Calibration("m", (), (), (), held_out=held)
    assert found.threshold(0.01) is None
    assert found.threshold(0.05) == held[-1][0]
    assert found.threshold(0.0) is None
    assert found.threshold(1.0) == 0.0


def test_equal_confidences_are_accepted_together_or_not_at_all() -> None:
    held = ((0.9, True),) * 300 + ((0.9, False),) * 300
    assert Calibration("m", (), (), (), held_out=held).threshold(0.1) is None


def test_a_file_gives_the_same_confidences_and_belongs_to_its_model(tmp_path: Path) -> None:
    path, samples = tmp_path / "calibration.json", drawn(1200)
    made = fit(samples, "nano-1", {"type": "object"})
    made.save(path)
    read = Calibration.load(path, "nano-1")
    assert read.confidence("total", samples[3].evidence) == made.confidence("total", samples[3].evidence)
    assert (read.steps is not None, read.schema) == (True, made.schema)
    assert read.threshold(0.2) == pytest.approx(made.threshold(0.2), abs=1e-6)
    with pytest.raises(UsageError, match="made with the model 'nano-1'"):
        Calibration.load(path, "other")
    assert Calibration.load(path, "other", force=True).model == "nano-1"


@pytest.mark.parametrize(
    "change",
    [{"common": [1]}, {"scale": [0] * 7}, {"center": ["a"] * 7}, {"version": 9}, {"held_out": {}}, {"format": "x"}],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "calibration.json"
    fit(drawn(100), "m").save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match="calibration"):
        Calibration.load(path, "m")
    path.write_text("{")
    with pytest.raises(UsageError, match="is not a calibration"):
        Calibration.load(path, "m")


class Opened(Scripted):
    """A model of this process, whose weights lie in a folder."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        super().__init__(lambda images, params: "")
        self.path, self._fingerprint = path, fingerprint

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


def test_a_model_uses_the_calibration_beside_its_weights_while_they_are_those_it_was_made_with(tmp_path: Path) -> None:
    assert calibration_of(Opened(tmp_path, "nano")) is None
    made = fit(drawn(200), "nano")
    made.save(tmp_path / "calibration.json")
    made.save(tmp_path / "pixtral.calibration.json")
    gguf = tmp_path / "pixtral.gguf"
    gguf.touch()
    for path in (tmp_path, gguf):
        found = calibration_of(Opened(path, "nano"))
        assert found is not None
        assert found.common == made.common
    assert calibration_of(Opened(tmp_path, "nano with other weights")) is None
    with pytest.raises(UsageError, match="was made with the model"):
        calibration_of(Opened(tmp_path, "another"), tmp_path / "calibration.json")
    assert calibration_of(Scripted(lambda images, params: "")) is None, "of a server, nobody knows the weights"


def test_too_few_or_one_sided_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="10 fields"):
        fit(drawn(10), "m")
    with pytest.raises(UsageError, match="both right and wrong"):
        fit([dataclasses.replace(sample, right=True) for sample in drawn(100)], "m")


def test_evidence_is_in_log_odds_and_bounded() -> None:
    found = dict(zip(EVIDENCE, evidence_of(Features(math.log(0.2), math.log(0.5), -200.0, 8), None, 1.0, -1.0), strict=True))  # fmt: skip # noqa: E501
    assert found["logit_product"] == pytest.approx(math.log(0.2 / 0.8))
    assert (found["logit_mean"], found["logit_least"]) == (pytest.approx(0.0), -14.0)
    assert (found["log_length"], found["attention"], found["text"], found["reread"]) == (math.log(8), 0.0, 1.0, -1.0)
