"""Counts are what Prometheus would have counted."""

from __future__ import annotations

from tessera.engine.tally import Distribution


def test_a_distribution_counts_as_prometheus_does() -> None:
    found = Distribution((1.0, 5.0))
    for value in (0.5, 1, 3, 9):
        found.add(value)
    assert (found.counts, found.total) == ([2, 1, 1], 13.5)
    assert found.copy() == found
