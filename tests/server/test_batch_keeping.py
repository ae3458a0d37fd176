"""Batches among keys, people, restarts and full disks: each line once, whatever happens, and after the people."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from tessera.errors import DiskFullError
from tessera.server import batch_run, batches
from tessera.server.batches import Batches, Job
from tessera.server.served_model import Gate
from tests.server.batch_client import CHAT, Api, Process, many, until
from tests.server.conftest import Running, run_server


def test_no_key_sees_the_batches_of_another() -> None:
    running = run_server(api_key=("one", "two"), max_batches=1)
    try:
        mine, other = Api(running, "one"), Api(running, "two")
        batch = mine.create(many(2000))
        for refused in (other.client.batches.retrieve, other.client.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="no batch"):
                refused(batch.id)
        assert other.client.batches.list().data == []
        with pytest.raises(openai.NotFoundError, match="no file"):
            other.client.batches.create(
                completion_window="24h", endpoint="/v1/chat/completions", input_file_id=batch.input_file_id
            )
        with pytest.raises(openai.RateLimitError, match="max_batches"):
            mine.create(many(1))
        with httpx2.Client() as client:
            key = {"authorization": "Bearer one"}
            assert client.delete(f"{running.url}/v1/batch/jobs/{batch.id}", headers=key).status_code == 409
        mine.client.batches.cancel(batch.id)
        done = mine.ended(batch)
        with pytest.raises(openai.NotFoundError):
            other.client.files.content(done.output_file_id or "")
    finally:
        running.stop()


def test_a_batch_goes_on_in_the_next_server(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    running = run_server(files_dir=folder)
    api = Api(running)
    batch = api.create(many(400))
    until(lambda: (now := api.client.batches.retrieve(batch.id).request_counts) and now.completed > 5)
    running.stop()
    again = run_server(files_dir=folder)
    try:
        api = Api(again)
        done = api.ended(batch)
        assert (done.status, done.id) == ("completed", batch.id)
        found = [row["custom_id"] for row in api.rows(done.output_file_id)]
        assert found == [f"n{number}" for number in range(400)]
        assert list((folder / "jobs").iterdir()) == []
    finally:
        again.stop()


def test_a_server_that_nobody_asks_removes_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SWEEP_S", 0.02)
    running = run_server(files_dir=tmp_path / "files")
    try:
        api = Api(running)
        for _ in range(3):
            api.ended(api.create(["no request"]))
        monkeypatch.setattr(batches, "MAX_ENDED", 2)
        until(lambda: len(api.client.batches.list().data) == 2)
        content = tmp_path / "files" / "content"
        assert len(list(content.iterdir())) == 3
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
        until(lambda: not list(content.iterdir()))
        until(lambda: not api.client.batches.list().data)
    finally:
        running.stop()


def test_a_full_disk_ends_no_batch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The server tries again when there may be room, and neither gives results up nor turns in a circle."""
    monkeypatch.setattr(batch_run, "REST_S", 0.01)
    left, save = 3, Batches._save

    def fail(batches: Batches, job: Job) -> None:
        nonlocal left
        if job.state in ("in_progress", "failed") and left:
            left -= 1
            raise DiskFullError("no room")
        save(batches, job)

    monkeypatch.setattr(Batches, "_save", fail)
    running = run_server()
    try:
        api = Api(running)
        done = api.ended(api.create(many(2)))
        assert (done.status, len(api.rows(done.output_file_id))) == ("completed", 2)
    finally:
        running.stop()
    assert sum("is tried again in" in each.getMessage() for each in caplog.records) == 3


def test_people_come_first(running: Running) -> None:
    """A batch leaves one place in the engine free, so that whoever asks waits for no line of it."""
    api = Api(running)
    batch = api.create(many(60, max_tokens=200))
    until(lambda: running.llm.stats().running >= 3)
    most = 0
    for _ in range(5):
        reply = running.post(CHAT, many(1, max_tokens=20)[0]["body"])
        assert reply.status_code == 200
        most = max(most, running.llm.stats().running)
    assert most <= 4
    now = api.client.batches.retrieve(batch.id)
    assert now.status == "in_progress", "the batch ended before the people did"
    api.client.batches.cancel(batch.id)
    assert api.ended(batch).status == "cancelled"


@pytest.mark.parametrize("waiting", [0, 1, 5])
def test_no_line_is_begun_while_somebody_waits(waiting: int) -> None:
    class Busy:
        num_waiting = waiting
        config = SimpleNamespace(max_num_seqs=3)

    gate = Gate(Busy())  # type: ignore[arg-type]
    assert [gate.try_enter() for _ in range(3)] == [waiting == 0, waiting == 0, False]
    Busy.num_waiting = 0
    gate.leave()
    assert gate.try_enter() is True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_any_kills_each_line_is_answered_once_and_the_same(tmp_path: Path) -> None:
    told = many(600, temperature=1.0, seed=7, max_tokens=6)
    whole: list[list[dict[str, Any]]] = []
    for kills in (0, 4):
        folder = tmp_path / f"files-{kills}"
        server = Process(folder)
        server.wait()
        batch = Api(server).create(told)
        for number in range(kills):
            api = Api(server)
            until(lambda: (now := api.client.batches.retrieve(batch.id).request_counts) and  # noqa: B023
                  now.completed >= 100 * (number + 1), 120)  # noqa: B023  # fmt: skip
            server.kill()
            server = Process(folder)
            server.wait()
        api = Api(server)
        done = api.ended(batch, 240)
        assert done.status == "completed"
        whole.append(api.rows(done.output_file_id))
        server.kill()
    for found in whole:
        assert [row["custom_id"] for row in found] == [f"n{number}" for number in range(600)]
    choices = [[row["response"]["body"]["choices"] for row in found] for found in whole]
    assert choices[0] == choices[1]
