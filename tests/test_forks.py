"""Processes of the tests' own end when their test does, with what they did, and have nothing random in common."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tessera.errors import TesseraError
from tests import forks


def end_by(how: str) -> None:
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fault":
        raise ValueError("a fault")
    if how == "refusal":
        raise TesseraError("no; say yes.")


@pytest.mark.parametrize(
    ("how", "code", "says"), [("return", 0, ""), ("signal", -9, ""), ("fault", 1, "ValueError"), ("refusal", 1, "no;")]
)
def test_a_process_ends_with_what_it_did(how: str, code: int, says: str, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    assert forks.ended(forks.start(end_by, how, errors=errors)) == code
    said = errors.read_text()
    assert says in said
    assert ("Traceback" in said) == (how == "fault")


def test_a_process_that_does_not_end_is_killed_and_fails_its_test() -> None:
    hanging = forks.start(time.sleep, 600)
    with pytest.raises(AssertionError, match=r"did not end within 0\.1 s"):
        forks.ended(hanging, 0.1)
    hanging.join(10)
    assert hanging.exitcode == -signal.SIGKILL


def draw(into: Path) -> None:
    into.write_text(str(np.random.random()))


def test_processes_have_no_random_numbers_in_common(tmp_path: Path) -> None:
    drawn = [tmp_path / name for name in "ab"]
    for process in [forks.start(draw, each) for each in drawn]:
        assert forks.ended(process) == 0
    assert drawn[0].read_text() != drawn[1].read_text()
