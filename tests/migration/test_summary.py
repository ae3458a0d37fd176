"""Planted errors are found and counted, and intervals hold what they should."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tessera.labels import by_path
from tessera.migration.agreement import Rules
from tessera.migration.cells import compare_records
from tessera.migration.summary import Share, Tally, _Column, decide
from tests.migration.samples import VALUE, failed, preset, record

NAMES = ("old", "new")


def test_planted_errors_are_counted_by_field() -> None:
    tally = Tally(NAMES)
    for number in range(40):
        old = record({**VALUE, "date": "2020-01-01"} if number < 4 else VALUE, document=f"{number}.pdf")
        new = record({**VALUE, "vendor": "Wrong"} if number % 10 < 3 else VALUE, document=f"{number}.pdf")
        tally.add(compare_records(old, new, preset(), Rules(), by_path(VALUE)))
    found = tally.summary(0.95)
    assert (found.new_errors, found.fixed, found.neither, found.undecided) == (12, 4, 0, 0)
    by_name = {each.name: each for each in found.fields}
    assert (by_name["vendor"].new_errors, by_name["vendor"].fixed) == (12, 0)
    assert (by_name["date"].new_errors, by_name["date"].fixed) == (0, 4)
    assert by_name["vendor"].agreement.value == pytest.approx(28 / 40)
    # 2 * P(X <= 4), X of 16 tosses: 2 * 2517 / 65536.
    assert found.p == pytest.approx(2 * 2517 / 65536)
    assert found.agreement.value == pytest.approx(1 - 16 / 360)
    assert found.agreement.low < 1 - 16 / 360 < found.agreement.high
    assert found.difference.value == pytest.approx((4 - 12) / 360)
    assert found.new_right is not None
    assert found.new_right.value == pytest.approx(1 - 12 / 360)
    assert (found.groups[0].rows, found.groups[0].agree, found.groups[0].new_right) == (80, 80, 80)


def test_intervals_cover_the_rate_of_planted_errors() -> None:
    """Errors come in clusters: a document is bad with 20 %, and half of a bad one's values are wrong: 90 % agree."""
    covered = 0
    rounds = 60
    for seed in range(rounds):
        draw, column = random.Random(seed), _Column()
        for place in range(60):
            is_bad = draw.random() < 0.2
            for _ in range(8):
                column.add(not (is_bad and draw.random() < 0.5), place)
        share = column.share()
        covered += share.low <= 0.9 <= share.high
    assert covered >= 0.85 * rounds  # of 95 % intervals, with what chance does to 60 of them


def test_an_interval_of_equal_values_is_not_a_point() -> None:
    column = _Column()
    for place in range(20):
        column.add(1.0, place)
        column.add(1.0, place)
    share = column.share()
    assert (share.value, share.high) == (1.0, 1.0)
    assert share.low == pytest.approx(20 / (20 + 1.96**2))  # Wilson's, of 20 documents


def test_an_interval_of_equal_documents_is_not_a_point() -> None:
    """Of four documents each has one value of three right: drawing documents again gives a third every time."""
    column = _Column()
    for place in range(4):
        for value in (1.0, 0.0, 0.0):
            column.add(value, place)
    share = column.share()
    assert (share.low, share.high) == (0.0, pytest.approx(1 / 3 + 1.96**2 / (4 + 1.96**2)))  # Wilson's width of four


def test_failures_refusals_and_costs_are_told_of_each_side() -> None:
    tally = Tally(NAMES)
    sorry = record({**VALUE, "vendor": "I'm sorry, I cannot read this."})
    tally.add(compare_records(replace(sorry, seconds=2.0, retried=1), failed(), preset(), Rules()))
    old, new = tally.summary(0.95).sides
    assert (old.refused, old.seconds, old.retried, dict(old.failed)) == (1, 2.0, 1, {})
    assert (new.refused, dict(new.failed)) == (0, {"timeout": 1})


def share(value: float, low: float, high: float) -> Share:
    return Share(value, low, high, 100)


@pytest.mark.parametrize(
    ("agreement", "worst", "errors", "word"),
    [
        (share(0.99, 0.97, 1.0), None, (1, 0), "go"),
        (share(0.99, 0.97, 1.0), -0.05, (12, 1), "no-go"),  # few, but not by chance
        (share(0.80, 0.70, 0.90), None, (0, 0), "no-go"),
        (share(0.80, 0.70, 0.90), 0.01, (2, 20), "go"),  # differs because it is better
        (share(0.80, 0.70, 0.90), -0.2, (2, 20), "no-go"),  # too much that nobody judged
        (share(0.95, 0.90, 0.99), None, (0, 0), "undecided"),
        (Share(0.0, 0.0, 1.0, 0), None, (0, 0), "undecided"),
    ],
)
def test_the_decision(agreement: Share, worst: float | None, errors: tuple[int, int], word: str) -> None:
    assert decide(agreement, worst, errors, 0.95).word == word
