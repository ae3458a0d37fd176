"""/v1/batches and /v1/batch/jobs through their own clients: each line once, whatever happens, and after the people."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.models import ChatCompletionRequest, ChatCompletionResponse
from mistralai.extra.batch import BatchClient, BatchInput
from openai.types import Batch

from tessera.errors import DiskFullError
from tessera.server import batch_run, batches
from tessera.server.batches import Batches, Job
from tessera.server.served_model import Gate
from tests.server.conftest import Running, asking, run_server
from tests.server.test_http import assert_refused

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str | None, text: str = "What is the total?", **more: Any) -> dict[str, Any]:
    body = {"max_tokens": 4, **asking(text), **more.pop("body", {})}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def lines(told: Sequence[Any]) -> bytes:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in told).encode()


def many(count: int, **body: Any) -> list[dict[str, Any]]:
    """Lines without pictures, which are answered at once."""
    text = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "ignore_eos": True} | body
    return [{"custom_id": f"n{number}", "method": "POST", "url": CHAT, "body": text} for number in range(count)]


def rows(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(each) for each in text.splitlines()]


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


class Api:
    """OpenAI's client at a server, and what the tests do with it."""

    def __init__(self, running: Running | Process, key: str = "any") -> None:
        self.client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)

    def create(self, told: Sequence[Any], **more: Any) -> Batch:
        file = self.client.files.create(file=("in.jsonl", lines(told)), purpose="batch")
        return self.client.batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **more
        )

    def ended(self, batch: Batch, seconds: float = 60) -> Batch:
        def look() -> Batch | None:
            now = self.client.batches.retrieve(batch.id)
            return now if now.status in ENDED else None

        found: Batch = until(look, seconds)
        return found

    def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        return [] if file_id is None else rows(self.client.files.content(file_id).read())


@pytest.fixture(scope="module")
def api(running: Running) -> Api:
    return Api(running)


@pytest.fixture(scope="module")
def mistral(running: Running) -> Mistral:
    return Mistral(api_key="any", server_url=running.url)


# OpenAI's -------------------------------------------------------------------------------------


def test_the_openai_client_gets_each_line_answered_as_a_post_would_be(api: Api, running: Running) -> None:
    told = [line("a"), line("b", "Which shop is this?"), line("c", body={"temperature": -1})]
    batch = api.create(told, metadata={"project": "x"}, output_expires_after={"anchor": "created_at", "seconds": 3600})
    assert batch.status == "validating"
    done = api.ended(batch)
    assert (done.status, done.metadata, done.errors) == ("completed", {"project": "x"}, None)
    assert done.request_counts is not None
    assert dict(done.request_counts) == {"total": 3, "completed": 2, "failed": 1}
    found = {row["custom_id"]: row for row in api.rows(done.output_file_id)}
    assert sorted(found) == ["a", "b"]
    for each in told[:2]:
        posted = running.post(CHAT, each["body"]).json()["choices"]
        assert found[each["custom_id"]]["response"]["status_code"] == 200
        assert found[each["custom_id"]]["response"]["body"]["choices"] == posted
    (failed,) = api.rows(done.error_file_id)
    posted = running.post(CHAT, told[2]["body"])
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("c", posted.status_code)
    assert failed["response"]["body"] == posted.json()
    output = api.client.files.retrieve(done.output_file_id or "")
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 3600)
    usage = [row["response"]["body"]["usage"] for row in found.values()]
    assert done.usage is not None
    assert done.usage.input_tokens == sum(each["prompt_tokens"] for each in usage) > 400
    assert done.usage.output_tokens == sum(each["completion_tokens"] for each in usage)
    times = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert times == sorted(times, key=lambda time: time or 0)
    assert (done.expires_at or 0) - done.created_at == 24 * 3600


def test_what_is_wrong_with_the_input_is_told_by_line_and_nothing_runs(api: Api) -> None:
    told = [
        line("a"), "{not json", line("a"), line("b", url="/v1/embeddings"), line("c", method="GET"), "[]",
        line("d", more=1), {"custom_id": 5, "body": {}}, {"custom_id": "e"}, line("x" * 600), "", line("f"),
    ]  # fmt: skip
    done = api.ended(api.create(told))
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert done.errors is not None
    errors = [(error.line, error.code) for error in done.errors.data or []]
    assert errors == [
        (2, "invalid_line"), (3, "duplicate_custom_id"), (4, "invalid_url"), (5, "invalid_line"), (6, "invalid_line"),
        (7, "invalid_line"), (8, "invalid_line"), (9, "invalid_line"), (10, "invalid_line"),
    ]  # fmt: skip
    messages = [error.message or "" for error in done.errors.data or []]
    assert "lines 1 and 3 have the same custom_id 'a'" in messages[1]
    empty = api.ended(api.create(["", "  "]))
    assert [error.code for error in (empty.errors.data if empty.errors else None) or []] == ["empty_file"]


def test_all_failed_is_still_two_files(api: Api) -> None:
    done = api.ended(api.create([line("a", body={"model": "gpt-4"}), line("b", body={"messages": []})]))
    assert done.status == "completed"
    assert api.rows(done.output_file_id) == []
    assert {row["custom_id"] for row in api.rows(done.error_file_id)} == {"a", "b"}


def test_a_cancelled_batch_keeps_what_is_there(api: Api) -> None:
    batch = api.create(many(3000))
    until(lambda: (api.client.batches.retrieve(batch.id).request_counts or batch.request_counts).completed > 5)  # type: ignore[union-attr]
    cancelled = api.client.batches.cancel(batch.id)
    assert cancelled.status in ("cancelling", "cancelled")
    done = api.ended(batch)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    found = [row["custom_id"] for row in api.rows(done.output_file_id)]
    assert done.request_counts is not None
    assert 5 < len(found) == done.request_counts.completed < 3000
    assert found == [f"n{number}" for number in range(len(found))]
    assert api.client.batches.cancel(batch.id).status == "cancelled"


def test_an_expired_batch_keeps_what_is_there_and_names_the_rest(
    api: Api, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.server.routes.batches.WINDOW_S", 2)
    done = api.ended(api.create(many(3000)))
    assert done.status == "expired"
    output, errors = api.rows(done.output_file_id), api.rows(done.error_file_id)
    assert 0 < len(output) < 3000
    assert sorted(row["custom_id"] for row in output + errors) == sorted(f"n{number}" for number in range(3000))
    assert {row["error"]["code"] for row in errors} == {"batch_expired"}
    assert done.request_counts is not None
    assert done.request_counts.failed == len(errors)


def test_lists_go_on_after_the_last(api: Api) -> None:
    ids = [api.ended(api.create([f"bad {number}"])).id for number in range(3)]
    found = [batch.id for batch in api.client.batches.list(limit=2)]
    assert set(ids) <= set(found)
    assert len(found) == len(set(found))
    assert api.client.batches.list(limit=1).data[0].id == found[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"), ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"), ({"metadata": {"x" * 65: "y"}}, "metadata"),
        ({"metadata": {"x": "y" * 513}}, "metadata"), ({"input_file_id": "x"}, "no file"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "at least 3600"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "anchor"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_name(api: Api, running: Running, change: dict[str, Any], says: str) -> None:
    file = api.client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    body = {"completion_window": "24h", "endpoint": CHAT, "input_file_id": file.id} | change
    assert_refused(running.post("/v1/batches", body), 404 if says == "no file" else 400, says)


def test_the_input_must_have_its_purpose_and_may_go_meanwhile(api: Api) -> None:
    file = api.client.files.create(file=("in.jsonl", lines(many(40))), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose batch"):
        api.client.batches.create(completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id)
    batch = api.create(many(40))
    api.client.files.delete(batch.input_file_id)
    done = api.ended(batch)
    assert done.request_counts is not None
    assert done.request_counts.completed == 40


# Mistral's ------------------------------------------------------------------------------------


def test_the_mistral_client_runs_jobs_from_files_and_inline(mistral: Mistral) -> None:
    files = [
        mistral.files.upload(file={"file_name": f"{name}.jsonl", "content": lines([line(name)])}, purpose="batch").id
        for name in "ab"
    ]
    jobs = mistral.batch.jobs
    made = jobs.create(endpoint=CHAT, input_files=files, model="nano", metadata={"run": "x1"})
    assert made.status == "QUEUED"
    done = until(lambda: (job := jobs.get(job_id=made.id)).status == "SUCCESS" and job)
    assert (done.total_requests, done.succeeded_requests, done.failed_requests) == (2, 2, 0)
    found = rows(b"".join(mistral.files.download(file_id=done.output_file).iter_bytes()))
    assert sorted(row["custom_id"] for row in found) == ["a", "b"]
    assert done.error_file is None
    bodies: Any = [{"custom_id": name, "body": line(name)["body"]} for name in "cd"]
    inline = jobs.create(endpoint=CHAT, requests=bodies)
    until(lambda: jobs.get(job_id=inline.id).status == "SUCCESS")
    outputs = jobs.get(job_id=inline.id, inline=True).outputs
    assert sorted(row["custom_id"] for row in outputs or []) == ["c", "d"]  # type: ignore[union-attr]
    listed = jobs.list(metadata={"run": "x1"}, status=["SUCCESS"], model="nano", order_by="created")
    assert ([job.id for job in listed.data or []], listed.total) == ([made.id], 1)
    assert made.id not in [job.id for job in jobs.list(status=["FAILED"]).data or []]
    assert jobs.delete(job_id=made.id).deleted
    assert jobs.list(metadata={"run": "x1"}).total == 0


def test_mistrals_batch_client_gets_each_request_once(running: Running) -> None:
    async def run() -> Any:
        client: Any = BatchClient(
            Mistral(api_key="any", server_url=running.url), endpoint=CHAT, response_body_type=ChatCompletionResponse
        )
        content = asking()["messages"][0]["content"]
        payload = {
            name: ChatCompletionRequest(model=model, messages=[{"role": "user", "content": content}], max_tokens=4)  # type: ignore[list-item]
            for name, model in (("a", "nano"), ("b", "nano"), ("c", "unknown"))
        }
        return await client.run(BatchInput.from_payload(payload), poll_interval_seconds=0.1)

    result = asyncio.run(run())
    assert (result.status, sorted(result.by_id())) == ("SUCCESS", ["a", "b"])
    assert [error.custom_id for error in result.error_output().request_errors] == ["c"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint": "/v1/fim/completions"}, "endpoint"), ({"agent_id": "a"}, "agents"),
        ({"model": "x"}, "not served"),
        ({"requests": []}, "either input_files or requests"), ({"timeout_hours": 0}, "timeout_hours"),
        ({"timeout_hours": 1000}, "timeout_hours"), ({"input_files": ["x"]}, "either input_files"),
    ],
)  # fmt: skip
def test_a_bad_field_of_a_job_is_refused_by_name(running: Running, change: dict[str, Any], says: str) -> None:
    body = {"endpoint": CHAT, "requests": [{"custom_id": "a", "body": {"messages": []}}]} | change
    assert_refused(running.post("/v1/batch/jobs", body), 404 if says == "not served" else 400, says)


@pytest.mark.parametrize("query", ["status=DONE", "created_after=yesterday", "order_by=name", "agent_id=x", "page=-1"])
def test_a_bad_query_is_refused(running: Running, query: str) -> None:
    assert_refused(running.get(f"/v1/batch/jobs?{query}"), 400, query.partition("=")[0])


# Keys, people, restarts -----------------------------------------------------------------------


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


def test_lists_are_read_some_jobs_at_a_time(api: Api, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "JOBS_READ", 2)
    made = {api.ended(api.create(["no request"])).id for _ in range(5)}
    newest = [batch.id for batch in api.client.batches.list(limit=1)]  # whose client asks for page after page
    assert len(newest) == len(set(newest))
    assert set(newest[:5]) == made
    oldest: list[str] = []
    for page in range(len(newest) // 3 + 1):
        told = running.get(f"/v1/batch/jobs?order_by=created&page_size=3&page={page}").json()
        assert told["total"] == len(newest)
        oldest += [job["id"] for job in told["data"]]
    assert oldest == newest[::-1]
    assert made & {job["id"] for job in running.get("/v1/extractions").json()["data"]} == set()


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


def test_people_come_first(running: Running, api: Api) -> None:
    """A batch leaves one place in the engine free, so that whoever asks waits for no line of it."""
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


class Process:
    """`tessera serve` in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tessera", "serve", "--port", str(port), "--files-dir", str(folder)]
        command += ["--kv-cache-bytes", str(2**25), "--max-num-seqs", "4"]
        self.log = (folder.parent / "log").open("ab")
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)

    def wait(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, "the server ended"
            try:
                return client.get(self.url + "/ready").status_code == 200
            except httpx2.HTTPError:
                return False

        with httpx2.Client(verify=False) as client:
            until(ready, 200)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


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
