"""/v1/batches and /v1/batch/jobs through their own clients: what is asked for, answered and refused."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.models import ChatCompletionRequest, ChatCompletionResponse
from mistralai.extra.batch import BatchClient, BatchInput

from tessera.server import batches
from tests.server.batch_client import CHAT, Api, line, lines, many, rows, until
from tests.server.conftest import Running, asking
from tests.server.test_http import assert_refused


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
    monkeypatch.setattr("tessera.server.routes.batches.WINDOW_S", 300)
    batch = api.create(many(3000))
    until(lambda: (now := api.client.batches.retrieve(batch.id).request_counts) and now.completed > 5)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    done = api.ended(batch)
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


def test_lists_are_read_some_jobs_at_a_time(api: Api, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "JOBS_READ", 2)
    made = {api.ended(api.create(["no request"])).id for _ in range(5)}
    newest = [batch.id for batch in api.client.batches.list(limit=1)]  # whose client asks for page after page
    assert len(newest) == len(set(newest))
    assert set(newest) >= made
    oldest: list[str] = []
    for page in range(len(newest) // 3 + 1):
        told = running.get(f"/v1/batch/jobs?order_by=created&page_size=3&page={page}").json()
        assert told["total"] == len(newest)
        oldest += [job["id"] for job in told["data"]]
    assert oldest == newest[::-1]
    assert made & {job["id"] for job in running.get("/v1/extractions").json()["data"]} == set()
