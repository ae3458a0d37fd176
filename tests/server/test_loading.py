"""A long start is told in the log, a short one is not."""

from __future__ import annotations

import logging

import pytest

from tessera.server.loading import LOG_S, logged_progress


def test_a_line_is_logged_after_each_interval(caplog: pytest.LogCaptureFixture) -> None:
    seconds = iter([0.0, 1.0, LOG_S, LOG_S, LOG_S + 1, 3 * LOG_S, 3 * LOG_S])
    progress = logged_progress(lambda: next(seconds))
    with caplog.at_level(logging.INFO, "tessera.server"):
        for done, name in enumerate(("a", "b", "c", "d"), 1):
            progress(name, done, 4)
    assert [record.getMessage() for record in caplog.records] == ["50 % done, at b", "100 % done, at d"]
