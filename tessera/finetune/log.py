"""The log of a run: JSON lines that a resumed run continues as if it had never stopped, and progress as lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from tessera.finetune.loss import Marks
from tessera.machine import written_whole
from tessera.training.loop import Record

CURVE_COLUMNS, CURVE = 60, "▁▂▃▄▅▆▇█"
Say = Callable[[str], None]


class RunLog:
    """Appends one JSON object for each step and evaluation; `step` is the number of finished steps.

    On a rank that does not write, nothing is appended.
    """

    def __init__(self, path: Path, finished: int, *, writes: bool = True) -> None:
        self.path = path
        self._file: TextIO | None = None
        if not writes:
            return
        kept = [line for line in read_log(path) if line["step"] <= finished]
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the log's objects; a line that a killed run did not finish ends it."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def step_values(record: Record[Marks], seconds: float) -> dict[str, Any]:
    """Return a step's line: its loss and counts, losses by source, rates, and its time."""
    marks = record.marks
    labelled = sum(mark.labelled for mark in marks)
    sources: dict[str, tuple[float, int]] = {}
    for mark in marks:
        for name, (total, count) in mark.by_source.items():
            before = sources.get(name, (0.0, 0))
            sources[name] = before[0] + total, before[1] + count
    return {
        "step": record.step + 1,
        "loss": sum(mark.total for mark in marks) / labelled,
        "right": sum(mark.right for mark in marks) / labelled,
        "labelled": labelled,
        "tokens": sum(mark.tokens for mark in marks),
        "images": sum(mark.images for mark in marks),
        "sources": {name: total / count for name, (total, count) in sorted(sources.items())},
        "rates": dict(record.rates),
        "norm": record.norm,
        "seconds": round(seconds, 3),
    }


def curve(losses: list[float]) -> str:
    """Return losses as one line of blocks, the highest first where a run began."""
    if not losses:
        return ""
    width = min(CURVE_COLUMNS, len(losses))
    cuts = [round(number * len(losses) / width) for number in range(width + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    return "".join(CURVE[round((mean - low) / spread * (len(CURVE) - 1))] for mean in means)


class Progress:
    """Says now and then how far a run is, and when it will be done."""

    def __init__(self, say: Say, steps: int, done: int, every_s: float = 10.0) -> None:
        self._say, self._steps, self._done, self._every = say, steps, done, every_s
        self._began = time.monotonic()
        self._said = float("-inf")

    def step(self, values: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._said < self._every and values["step"] < self._steps:
            return
        self._said = now
        speed = (values["step"] - self._done) / max(now - self._began, 1e-9)
        left = (self._steps - values["step"]) / speed
        self._say(
            f"step {values['step']}/{self._steps}  loss {values['loss']:.4f}  {values['right']:.0%} of tokens right  "
            f"{values['tokens'] / max(values['seconds'], 1e-9):,.0f} tokens/s  {left / 60:.1f} min left"
        )
