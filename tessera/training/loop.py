"""The loop of training: batches in, a loss from each, one update a step, a record out.

It prints nothing, saves nothing and knows no task: whoever drives it reads the records and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from tessera.training.optimizer import MasterOptimizer

BatchT = TypeVar("BatchT")


class Marks(Protocol):
    """What a loss function gives for one batch: the loss to descend, beside whatever it counted."""

    @property
    def loss(self) -> Tensor: ...


MarksT = TypeVar("MarksT", bound=Marks)


@dataclass(frozen=True)
class Record(Generic[MarksT]):
    """One finished step: its number, the marks of its batches, the learning rates, the gradient's norm."""

    step: int
    marks: Sequence[MarksT]
    rates: Mapping[str, float]
    norm: float


def training_steps(
    optimizer: MasterOptimizer,
    batches: Iterable[Sequence[BatchT]],
    marks_of: Callable[[BatchT], MarksT],
    rates_at: Callable[[int], Mapping[str, float]],
    start: int = 0,
) -> Iterator[Record[MarksT]]:
    """Run a step for each element of `batches`, whose members' gradients are summed up and averaged.

    The first step has the number `start`. Between two records the caller may save, log or stop.
    """
    for step, parts in enumerate(batches, start):
        marks = []
        for batch in parts:
            part = marks_of(batch)
            if part.loss.requires_grad:  # a batch may hold nothing that is taught
                (part.loss / len(parts)).backward()
            marks.append(part)
        rates = rates_at(step)
        yield Record(step, marks, rates, optimizer.step(rates))
