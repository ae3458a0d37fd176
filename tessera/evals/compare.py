"""Comparing runs of one task on the same data: differences of the main score with what chance would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tessera.errors import UsageError, counted
from tessera.evals.answers import Answer
from tessera.evals.metrics import bootstrap_interval, mcnemar, wilson_interval
from tessera.evals.run import answers_by_place, facts_of
from tessera.evals.task import Task
from tessera.evals.tasks import task_of

SAME = ("task", "data_digest")  # what must agree for scores to be comparable


@dataclass(frozen=True)
class Comparison:
    """The second run against the first, on the questions that both answered; in the task's scale."""

    task: Task
    count: int
    first: float
    second: float
    low: float  # the 95 % interval of the difference
    high: float
    gained: Sequence[tuple[Answer, Answer]]  # questions on which the second run has more points
    lost: Sequence[tuple[Answer, Answer]]
    p: float | None  # McNemar's, of right or wrong; None where points are graded
    notes: Sequence[str] = ()

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def is_significant(self) -> bool:
        """Return True if chance explains the difference in fewer than 5 of 100 cases."""
        return self.p < 0.05 if self.p is not None else not self.low <= 0 <= self.high


def compare(first: Path, second: Path) -> Comparison:
    """Compare two runs; raises UsageError if they are not of the same task and data."""
    facts = [facts_of(first), facts_of(second)]
    one, other = (each["identity"] for each in facts)
    for name in SAME:
        if one.get(name) != other.get(name):
            raise UsageError(
                f"{first} and {second} differ in their {name} ({str(one.get(name))[:40]} and "
                f"{str(other.get(name))[:40]}), so they cannot be compared; run both on one data set."
            )
    task = task_of(facts[0])
    answers = [answers_by_place(each) for each in (first, second)]
    pairs = [(answer, answers[1][place]) for place, answer in answers[0].items() if place in answers[1]]
    if not pairs:
        raise UsageError(f"{first} and {second} have no question in common; give both the same --limit and --seed.")
    found = _compared(task, pairs)
    return replace(found, notes=_notes(one, other, [len(each) for each in answers], found))


def _compared(task: Task, pairs: Sequence[tuple[Answer, Answer]]) -> Comparison:
    points = [(one.scores[task.main], other.scores[task.main]) for one, other in pairs]
    gained = [pair for pair, (one, other) in zip(pairs, points, strict=True) if other > one]
    lost = [pair for pair, (one, other) in zip(pairs, points, strict=True) if other < one]
    differences = [other - one for one, other in points]
    low, high = bootstrap_interval(differences, [one.cluster for one, _ in pairs])
    count = len(pairs)
    return Comparison(
        task,
        count,
        task.scale * sum(one for one, _ in points) / count,
        task.scale * sum(other for _, other in points) / count,
        task.scale * low,
        task.scale * high,
        gained,
        lost,
        None if task.is_graded else mcnemar(len(lost), len(gained)),
    )


def _notes(one: Mapping[str, str], other: Mapping[str, str], sizes: Sequence[int], found: Comparison) -> list[str]:
    notes, shared = [], found.count
    if one.get("prompt_digest") != other.get("prompt_digest"):
        notes.append("the runs used different prompts")
    if any(size != shared for size in sizes):
        notes.append(
            f"{counted(shared, 'question is', 'questions are')} in both runs, of {sizes[0]:,} and {sizes[1]:,}"
        )
    if not found.gained and not found.lost:  # then the bootstrap has nothing to draw from
        most = wilson_interval(0, shared)[1]
        notes.append(f"all have equal points, so the interval is empty; up to {most:.0%} of other questions may differ")
    return notes
