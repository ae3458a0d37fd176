"""Curves fitted to outcomes: logistic and isotonic regression, and the exact binomial test.

Forty lines instead of a hundred megabytes of scikit-learn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEWTON_STEPS = 50


def logistic(rows: Floats, right: Floats, prior: Floats, ridge: float) -> Floats:
    """Return the weights of least log loss plus ridge / 2 times their squared distance from the prior, by Newton."""

    def loss(weights: Floats) -> float:
        signs = rows @ weights * (1 - 2 * right)
        return float(np.logaddexp(0, signs).sum() + ridge / 2 * ((weights - prior) ** 2).sum())

    weights = prior.copy()
    for _ in range(NEWTON_STEPS):
        chances = sigmoid(rows @ weights)
        slope = rows.T @ (chances - right) + ridge * (weights - prior)
        bend = (rows * (chances * (1 - chances))[:, None]).T @ rows + ridge * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        size, before = 1.0, loss(weights)
        while size > 1e-6 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return weights


def isotonic(values: Floats, right: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a monotone map by pooling adjacent violators, to be interpolated between its points.

    Each pool counts half a right and half a wrong sample more, so that none becomes certain.
    """
    pools: list[list[float]] = []  # the sums of values and of right ones, and the count
    for index in np.argsort(values, kind="stable"):
        pools.append([float(values[index]), float(right[index]), 1.0])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    levels = np.maximum.accumulate([(hits + 0.5) / (count + 1) for _, hits, count in pools])
    return tuple(total / count for total, _, count in pools), tuple(map(float, levels))


def binomial_tail(errors: int, count: int, rate: float) -> float:
    """Return the chance of at most so many errors among `count` values if each is wrong at this rate."""
    if errors >= count:
        return 1.0
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(rate) + (count - k) * math.log1p(-rate)
        for k in range(errors + 1)
    ]  # fmt: skip
    return min(math.fsum(map(math.exp, logs)), 1.0)


def sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -50, 50)))
