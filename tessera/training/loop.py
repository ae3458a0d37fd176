"""The training loop: computes each batch's loss, makes one update per step, yields a record.

It prints nothing, saves nothing and is independent of the task: the caller reads the records and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from tessera.training.optimizer import MasterOptimizer

BatchT = TypeVar("BatchT")


class Marks(Protocol):
    """A loss function's result for one batch: the loss to descend, and any counts."""

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
    """Run a step for each element of `batches`, averaging its members' gradients.

    The first step has the number `start`. Between two records the caller may save, log or stop.
    """
    for step, parts in enumerate(batches, start):
        marks = []
        for batch in parts:
            part = marks_of(batch)
            if part.loss.requires_grad:  # a batch may hold no trained tokens
                (part.loss / len(parts)).backward()
            marks.append(part)
        rates = rates_at(step)
        yield Record(step, marks, rates, optimizer.step(rates))
