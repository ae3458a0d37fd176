"""Progress of a run: how many items are done, how fast, and when the rest will be; as plain lines or JSON events.

`cli.progress` draws the same snapshots on a terminal.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TextIO

from tessera.chat import Usage
from tessera.documents.journal import Counts, Journal
from tessera.errors import counted

WINDOW_S, MAX_MARKS = 60.0, 240  # the past that the speed is taken from
SHOW_S, RECOUNT_S = 0.2, 5.0  # between two snapshots, and two counts of the whole journal
LINE_S, EVENT_S = 5.0, 1.0  # between two plain lines, and two events


@dataclass(frozen=True)
class Snapshot:
    """The state of a run: counts of the whole journal; seconds, speed and tokens of this process."""

    counts: Counts
    seconds: float
    items_per_s: float
    seconds_left: float | None  # None: unknown yet
    usage: Usage


Progress = Callable[[Snapshot], None]


class Meter:
    """Counts one run's items and tokens, and shows a snapshot now and then."""

    def __init__(self, journal: Journal, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal, self._progress, self._clock = journal, progress, clock
        self._began = self._shown = self._counted = clock()
        self._counts, self._own = journal.counts(), 0
        self._marks: deque[tuple[float, int]] = deque([(self._began, 0)], maxlen=MAX_MARKS)
        self._usage = Usage()

    def count(self, usage: Usage) -> None:
        """Add one reply's tokens."""
        self._usage = Usage(**{name: value + getattr(usage, name) for name, value in asdict(self._usage).items()})

    def finished(self, *, failed: bool, review: bool) -> None:
        """Count one item, and show a snapshot if it is time."""
        told = asdict(self._counts)
        told["failed" if failed else "done"] += 1
        told["review"] += review and not failed
        source = "running" if told["running"] else "waiting"
        told[source] = max(told[source] - 1, 0)  # others may have taken it since the count
        self._counts, self._own = Counts(**told), self._own + 1
        if self._clock() - self._shown >= SHOW_S:
            self.show()

    def end(self) -> None:
        """Show the last snapshot, once all results are committed; its speed is that of the whole run."""
        self._counted = -math.inf
        self._marks = deque([(self._began, 0)], maxlen=MAX_MARKS)
        self.show()

    def show(self) -> None:
        now = self._clock()
        if now - self._counted >= RECOUNT_S:  # others may work on the same journal
            self._counts, self._counted = self._journal.counts(), now
        while len(self._marks) > 1 and now - self._marks[1][0] > WINDOW_S:  # what is left covers the window, or all
            self._marks.popleft()
        since, before = self._marks[0]
        if now - self._marks[-1][0] >= WINDOW_S / MAX_MARKS:
            self._marks.append((now, self._own))
        speed = (self._own - before) / (now - since) if now > since else 0.0
        left = self._counts.left / speed if speed else None
        self._shown = now
        self._progress(Snapshot(self._counts, now - self._began, speed, left, self._usage))


def described(snapshot: Snapshot) -> str:
    """Example: "312 of 500 done, 3 failed, 4.1 a second, 46 s left, 1,204,000 tokens in, 33,120 out"."""
    counts, usage = snapshot.counts, snapshot.usage
    parts = [f"{counts.done:,} of {counts.total:,} done"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.review:
        parts.append(f"{counts.review:,} in review")
    if snapshot.items_per_s:
        parts.append(speed_text(snapshot.items_per_s))
    if counts.left and snapshot.seconds_left is not None:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    parts.append(f"{counted(usage.prompt_tokens, 'token')} in, {usage.completion_tokens:,} out")
    return ", ".join(parts)


def speed_text(per_s: float) -> str:
    return f"{per_s:.1f} a second" if per_s >= 1 else f"{per_s * 60:.1f} a minute"


def duration(seconds: float) -> str:
    """Example: "46 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def event(snapshot: Snapshot, kind: str = "progress") -> str:
    """One line of JSON."""
    told = asdict(snapshot)
    counts, usage = told.pop("counts"), told.pop("usage")
    numbers = {name: None if value is None else round(value, 3) for name, value in told.items()}
    return json.dumps({"event": kind, **counts, **numbers, **usage})


def lines_to(stream: TextIO, every_s: float = LINE_S, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Write a plain line every few seconds."""
    return _now_and_then(lambda snapshot: print(described(snapshot), file=stream, flush=True), every_s, clock)


def events_to(stream: TextIO, every_s: float = EVENT_S, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Write a JSON event every second."""
    return _now_and_then(lambda snapshot: print(event(snapshot), file=stream, flush=True), every_s, clock)


def _now_and_then(write: Progress, every_s: float, clock: Callable[[], float]) -> Progress:
    last = clock()

    def show(snapshot: Snapshot) -> None:
        nonlocal last
        if clock() - last >= every_s:
            last = clock()
            write(snapshot)

    return show
