"""The arithmetic of a comparison: medians, shares of the limit, least work; and that wrong replies stop it."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest

from tessera.bench.compare import (
    Row,
    measure,
    rows_of,
    table,
    transcription,
    unrelated,
)
from tessera.bench.limits import Limits
from tessera.bench.process import Side
from tessera.bench.random_values import next_ids
from tessera.bench.random_weights import widths
from tessera.errors import MeasurementError
from tessera.model.family import PIXTRAL_12B

NANO, _ = widths("nano")
LIMITS = Limits(read_bytes_per_s=10.0, bfloat16_flops=100.0)


class Scripted(Side):
    """A side whose seconds are written down."""

    def __init__(self, name: str, seconds: list[float], replies: list[list[int]] | None = None) -> None:
        self.name, self.asked, self._seconds, self._replies = name, [], seconds, replies or []

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        return {"decode_s": self._seconds.pop(0), "replies": self._replies}


def test_ratios_are_of_neighbours_and_shares_of_the_limit() -> None:
    row = Row("decode", "generate", {"lookup": True}, "decode_s", 10, 100.0, 20.0, peer_arguments={"lookup": False})
    ours, theirs = Scripted("ours", [9, 4, 8, 2]), Scripted("theirs", [9, 8, 8, 6])
    (result,) = measure([row], [ours, theirs], 3, lambda: LIMITS, lambda _: None)
    assert result.seconds == {"ours": (4, 8, 2), "theirs": (8, 8, 6)}  # without the warm-up
    assert result.ratio("ours", "theirs") == (2, 1, 3)  # of 2, 1, 3: not of the medians, which would be 2
    assert result.fraction("ours") == 0.5  # 20 bytes at 10 a second, 100 operations at 100: 2 seconds of 4
    assert {call["lookup"] for call in ours.asked} == {True}
    assert {call["lookup"] for call in theirs.asked} == {False}
    assert table([result], ["ours", "theirs"]).splitlines()[2] == (
        "| decode | 2.50 tokens/s | 50% | 1.25 tokens/s | 25% | 2.00x (1.00-3.00) |"
    )


def test_a_side_that_says_something_else_is_not_compared() -> None:
    row = Row("decode", "generate", {}, "decode_s", 1, 1.0, 1.0, expected={"replies": [[7]]})
    with pytest.raises(
        MeasurementError, match=r"replies of theirs are \[\[8\]\], and of this model they are \[\[7\]\]"
    ):
        measure([row], [Scripted("ours", [1], [[7]]), Scripted("theirs", [1], [[8]])], 1, lambda: LIMITS, print)


def test_prompts_repeat_only_where_they_should() -> None:
    for config in (NANO, PIXTRAL_12B):
        prompt = unrelated(1040, 200, config)
        pairs = set(itertools.pairwise(prompt))
        reply = next_ids(prompt[-1], 33, config.vocab_size)
        assert len(prompt) == 200
        assert not pairs & set(itertools.pairwise(reply))
        held = transcription(1024, config)
        said = next_ids(held[-1], 128, config.vocab_size)
        assert sum(a != b for a, b in zip(held[2:], said, strict=False)) == 4


def test_rows_of_a_real_model_foretell_nothing() -> None:
    rows = rows_of(NANO, 1000, known=False, peer=True)
    assert rows[0].expected == {"tokens": 86 * 86}  # of an image of 1032x1032
    assert not any(row.expected for row in rows[1:])
    assert not any("repeated" in row.name for row in rows)


def test_a_program_that_ends_is_told_with_its_last_words() -> None:
    script = "import sys; input(); sys.exit('no such weights')"
    with Side("it", [sys.executable, "-c", script], 1) as side, pytest.raises(MeasurementError) as raised:
        side.ask("encode", side=16)
    assert str(raised.value) == "the program that measures it ended at 'encode' with the exit code 1: no such weights"


def test_a_program_that_ended_before_it_was_asked_is_told_too() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such weights')"]
    asked_late = pytest.raises(MeasurementError, match="ended at 'encode' with the exit code 1: no such weights")
    with asked_late, Side("it", command, 1) as side:
        side._process.wait()
        side.ask("encode", side=16)


def test_a_program_that_answers_anything_else_is_ended() -> None:
    command = [sys.executable, "-c", "import sys; print('a greeting', flush=True); sys.stdin.read()"]
    with Side("it", command, 1) as side, pytest.raises(MeasurementError, match="with the exit code 0: a greeting"):
        side.ask("encode", side=16)
