"""Progress: counts, speed and the time left, from a clock that the test moves."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tessera.chat import Usage
from tessera.documents import progress as progress_module
from tessera.documents.journal import Counts, Journal
from tessera.documents.progress import Meter, Snapshot, described, duration, events_to, lines_to, speed_text

STATE = Snapshot(Counts(500, 312, 3, 4, 181, 2), 76.0, 4.12, 45.6, Usage(1_204_000, 33_120, 900, 0))


def test_a_line_says_what_is_done_how_fast_and_how_long() -> None:
    assert described(STATE) == (
        "312 of 500 done, 3 failed, 2 in review, 4.1 a second, 46 s left, 1,204,000 tokens in, 33,120 out"
    )
    begun = Snapshot(Counts(5, 0, 0, 0, 5), 0.0, 0.0, None, Usage())
    assert described(begun) == "0 of 5 done, 0 tokens in, 0 out"


def test_times_and_speeds_are_in_units_that_fit() -> None:
    assert [duration(seconds) for seconds in (0.4, 46, 99, 720, 12_000)] == [
        "0 s",
        "46 s",
        "99 s",
        "12 min",
        "3 h 20 min",
    ]
    assert [speed_text(per_s) for per_s in (12.34, 1.0, 0.05)] == ["12.3 a second", "1.0 a second", "3.0 a minute"]


def test_lines_and_events_come_now_and_then() -> None:
    now, lines, events = [0.0], io.StringIO(), io.StringIO()
    shows = [lines_to(lines, 5.0, lambda: now[0]), events_to(events, 1.0, lambda: now[0])]
    for _ in range(100):
        now[0] += 0.11
        for show in shows:
            show(STATE)
    assert len(lines.getvalue().splitlines()) == 2
    told = [json.loads(line) for line in events.getvalue().splitlines()]
    assert len(told) == 10
    assert told[0] == {
        "event": "progress", "total": 500, "done": 312, "failed": 3, "running": 4, "waiting": 181, "review": 2,
        "seconds": 76.0, "items_per_s": 4.12, "seconds_left": 45.6,
        "prompt_tokens": 1_204_000, "completion_tokens": 33_120, "cached_tokens": 900, "image_tokens": 0,
    }  # fmt: skip


def test_the_meter_measures_this_runs_speed_over_the_last_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "RECOUNT_S", 1e9)  # nothing is really finished here
    now, shown = [100.0], list[Snapshot]()
    with Journal.open(tmp_path / "j", {}) as journal:
        journal.add((str(number), "") for number in range(1000))
        for item in journal.take(100):
            journal.finish(item.id, "earlier")
        journal.flush()
        meter = Meter(journal, shown.append, lambda: now[0])
        for number in range(300):  # two a second, then one in four seconds
            now[0] += 0.5 if number < 200 else 4.0
            meter.count(Usage(prompt_tokens=10, completion_tokens=1))
            meter.finished(failed=number % 10 == 0, review=number % 10 == 1)
            if number in (199, 299):
                meter.show()
    fast = next(each for each in shown if each.seconds == 100.0)
    assert abs(fast.items_per_s - 2.0) < 0.1
    assert fast.counts.done + fast.counts.failed == 300
    slow = shown[-1]
    assert abs(slow.items_per_s - 0.25) < 0.02
    assert (slow.usage.prompt_tokens, slow.usage.completion_tokens) == (3000, 300)


def test_the_last_snapshot_counts_what_was_just_committed(tmp_path: Path) -> None:
    now, shown = [100.0], list[Snapshot]()
    with Journal.open(tmp_path / "j", {}) as journal:
        journal.add([("a", "")])
        (item,) = journal.take(1)
        meter = Meter(journal, shown.append, lambda: now[0])
        now[0] += 1.0
        journal.finish(item.id, "done")
        meter.finished(failed=False, review=True)
        journal.flush()
        meter.end()
    assert [(each.counts.done, each.counts.left) for each in shown] == [(1, 0), (1, 0)]
    assert shown[-1].counts.review == 0  # the journal's own count, not the meter's


def test_items_that_end_together_after_minutes_are_not_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of ten end after 400 and 400.25 seconds; the run's end tells the speed of all of it."""
    monkeypatch.setattr(progress_module, "RECOUNT_S", 1e9)
    now, shown = [0.0], list[Snapshot]()
    with Journal.open(tmp_path / "j", {}) as journal:
        journal.add((str(number), "x") for number in range(10))
        meter = Meter(journal, shown.append, lambda: now[0])
        for seconds in (400.0, 400.25):
            now[0] = seconds
            meter.finished(failed=False, review=False)
        assert shown[-1].items_per_s == pytest.approx(2 / 400.25)
        now[0] = 500.0
        meter.end()
    assert shown[-1].items_per_s == pytest.approx(2 / 500)
