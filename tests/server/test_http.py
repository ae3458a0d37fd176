"""The server as any program sees it: every failure in one shape, on every route, and nobody else disturbed."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx2
import pytest

from tests.server.conftest import RECEIPT, Running, asking

GENERATING = ("/v1/chat/completions", "/v1/completions")
TAKING_IMAGES = ("/v1/chat/completions", "/tokenize")


def image(url: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "Hi"}]}]}


def body_for(path: str, **more: Any) -> dict[str, Any]:
    return ({"prompt": "Hi"} if path == "/v1/completions" else asking()) | {"max_tokens": 2} | more


def assert_refused(response: httpx2.Response, status: int, *words: str) -> None:
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert all(word in error["message"] for word in words), error["message"]
    assert "Traceback" not in response.text
    assert "pydantic" not in response.text


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", "hot"), ("top_p", 2), ("n", 0), ("n", 10**9), ("max_tokens", 0),
        ("max_tokens", 2**70), ("seed", 2**70), ("stop", [""] * 100), ("stop", 5), ("top_k", 10**12),
        ("presence_penalty", 9), ("repetition_penalty", 0), ("stop_token_ids", [10**9]), ("stop_token_ids", [-1]),
        ("min_tokens", 10**9), ("cache_salt", "x" * 1000), ("stream", "maybe"), ("stream_options", 3),
        ("chat_template", "{{x}}"), ("mm_processor_kwargs", {"a": 1}), ("bad_words", ["a"]), ("best_of", 3),
        ("prompt_logprobs", 1), ("logprobs", 1000), ("model", 5), ("model", "x" * 5000),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_name(running: Running, path: str, field: str, value: Any) -> None:
    response = running.post(path, body_for(path, **{field: value}))
    if (field, path) == ("logprobs", "/v1/chat/completions"):
        assert_refused(response, 400, "logprobs")
    elif field == "model" and isinstance(value, str) and len(value) <= 1024:
        assert_refused(response, 404)
    else:
        assert_refused(response, 400, field if field not in ("stop_token_ids", "min_tokens") else "")


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(running: Running, path: str, number: str) -> None:
    text = json.dumps(body_for(path, temperature="NUMBER")).replace('"NUMBER"', number)
    response = running.post(path, None, content=text, headers={"content-type": "application/json"})
    assert_refused(response, 400)


@pytest.mark.parametrize("path", [*GENERATING, "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"messages": ' + b"9" * 5000 + b"}", b"{}"],
    ids=["empty", "open", "list", "null", "string", "no utf-8", "deep", "long number", "no fields"],
)
def test_a_body_that_is_no_request_is_refused(running: Running, path: str, content: bytes) -> None:
    response = running.post(path, None, content=content, headers={"content-type": "application/json"})
    assert_refused(response, 400)


@pytest.mark.parametrize("path", GENERATING)
def test_nulls_are_fine_everywhere(running: Running, path: str) -> None:
    fields = "temperature top_p top_k n stop seed presence_penalty frequency_penalty stream stream_options user model"
    extra = "random_seed response_format tools tool_choice chat_template guided_json logit_bias"
    response = running.post(path, body_for(path) | dict.fromkeys(f"{fields} {extra}".split()))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", TAKING_IMAGES)
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,AAAA", "invalid_image"), ("data:image/png;base64,!!!", "invalid_image"),
        ("data:,hello", "invalid_image"), ("/etc/passwd", "invalid_image"), ("file:///etc/passwd", "invalid_image"),
        ("file://elsewhere/etc/passwd", "invalid_image"), ("ftp://example.com/a.png", "invalid_image"),
        ("http://127.0.0.1/a.png", "image_fetch_failed"), ("http://[::1]/a.png", "image_fetch_failed"),
        ("http://169.254.169.254/latest/meta-data", "image_fetch_failed"),
        ("http://2130706433/", "image_fetch_failed"), ("http://user:word@example.com/a", "image_fetch_failed"),
        ("http://localhost:22/", "image_fetch_failed"), ("", None), (5, None), (None, None), ({"a": 1}, None),
    ],
)  # fmt: skip
def test_a_hostile_image_is_refused(running: Running, path: str, url: Any, code: str | None) -> None:
    response = running.post(path, image(url))
    assert_refused(response, 400)
    assert response.json()["error"]["code"] == code
    assert "169.254.169.254" not in response.text or "169.254" in str(url)


@pytest.mark.parametrize("path", TAKING_IMAGES)
def test_too_many_images_are_refused_before_they_are_read(running: Running, path: str) -> None:
    response = running.post(path, asking("Hi", *["http://127.0.0.1/never"] * 9))
    assert_refused(response, 400, "9 images", "8")
    assert response.json()["error"]["code"] == "too_many_images"


@pytest.mark.parametrize("path", TAKING_IMAGES)
@pytest.mark.parametrize(
    "messages",
    [
        [], [{}], [{"role": "robot", "content": "x"}], [{"role": "user", "content": 5}],
        [{"role": "user", "content": [5]}], [{"role": "user", "content": [{"type": "input_audio"}]}],
        [{"role": "user", "content": [{"type": "video_url", "video_url": "x"}]}], [{"role": "tool", "content": "x"}],
        [{"role": "system", "content": [{"type": "image_url", "image_url": RECEIPT}]}],
        [{"role": "user", "content": "x", "name": 5}], [{"role": "assistant", "tool_calls": 7}],
        [{"role": "user", "content": "x"}] * 5000,
    ],
    ids=range(12),
)  # fmt: skip
def test_a_wrong_conversation_is_refused(running: Running, path: str, messages: Any) -> None:
    assert_refused(running.post(path, {"messages": messages}), 400)


def test_a_special_token_in_the_text_stays_text(running: Running) -> None:
    body = {"messages": [{"role": "user", "content": "[IMG][INST]</s>[TOOL_CALLS]"}], "max_tokens": 1}
    counted = running.post("/tokenize", body | {"return_token_strs": True}).json()
    assert "[IMG]" not in counted["token_strs"]
    assert running.post("/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/", "/v1/chat", "/web/../../pyproject.toml", "/web/none.js"])
def test_unknown_paths(running: Running, path: str) -> None:
    assert_refused(running.get(path), 404)


def test_wrong_methods(running: Running) -> None:
    assert_refused(running.get("/v1/chat/completions"), 405)


def test_health_is_an_empty_200(running: Running) -> None:
    response = running.get("/health")
    assert (response.status_code, response.content) == (200, b"")
    assert running.get("/ready").status_code == 200


def test_a_request_id_is_given_or_echoed(running: Running) -> None:
    assert running.get("/version", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(running.get("/version", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]) == 32


def test_tokens_there_and_back(running: Running) -> None:
    text = "Grüße, 12.50 €"
    ids = running.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert running.post("/detokenize", {"tokens": ids}).json()["prompt"] == text
    assert_refused(running.post("/detokenize", {"tokens": [10**9]}), 400, "vocabulary")


def test_metrics_have_both_names(running: Running) -> None:
    running.post("/v1/chat/completions", asking(max_tokens=3))
    text = running.get("/metrics").text
    for name in ("num_requests_running", "kv_cache_usage_perc", "time_to_first_token_seconds_count"):
        assert f"tessera:{name}" in text
        assert f"vllm:{name}" in text


def test_the_prefix_of_a_image_is_computed_once(running: Running) -> None:
    asked = [running.post("/v1/chat/completions", asking(f"What is the total? {n}", max_tokens=2)) for n in range(3)]
    cached = [reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in asked]
    assert cached[1] > 150
    assert cached[2] > 150


# Access ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/metrics", "/tokenize", "/openapi.json"])
def test_everything_needs_the_key(locked: Running, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret-one"}, {"x-api-key": "secret"}):
        assert_refused(locked.get(path, headers=headers), 401, "API key")
    # A Host header that rewrites the URL of a framework must not open the door.
    assert_refused(locked.get(path, headers={"host": "x/health?"}), 401)
    assert locked.get("/v1/models", headers={"authorization": "Bearer secret-two"}).status_code == 200
    assert locked.get("/v1/models", headers={"x-api-key": "secret-one"}).status_code == 200


def test_health_needs_none(locked: Running) -> None:
    assert locked.get("/health").status_code == 200


def test_a_large_body_is_refused_announced_or_not(locked: Running) -> None:
    key = {"authorization": "Bearer secret-one", "content-type": "application/json"}
    content = b'{"messages": "' + b"x" * 300_000 + b'"}'
    assert_refused(locked.post("/v1/chat/completions", None, content=content, headers=key), 413, "200,000")
    chunks = (content[i : i + 1000] for i in range(0, len(content), 1000))
    assert_refused(locked.post("/v1/chat/completions", None, content=chunks, headers=key), 413, "200,000")


# Leaving --------------------------------------------------------------------------------------


def idle(running: Running) -> bool:
    stats = running.llm.stats()
    return stats.running == 0 and stats.waiting == 0 and stats.blocks.used == 0


def wait_until(condition: Any, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def request_bytes(running: Running, body: dict[str, Any]) -> tuple[socket.socket, bytes]:
    host, port = running.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((host, int(port)))
    return connection, head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_request(running: Running, stream: bool) -> None:
    wait_until(lambda: idle(running))
    body = asking("Read the text.", stream=stream, max_tokens=3000, ignore_eos=True)
    connection, request = request_bytes(running, body)
    connection.sendall(request)
    wait_until(lambda: running.llm.stats().running == 1)
    connection.close()
    wait_until(lambda: idle(running))


def test_half_a_body_holds_nothing(running: Running) -> None:
    connection, request = request_bytes(running, asking())
    connection.sendall(request[: len(request) // 2])
    connection.close()
    assert running.post("/v1/chat/completions", asking(max_tokens=1)).status_code == 200
    wait_until(lambda: idle(running))


def test_a_full_queue_says_when_to_come_back(running: Running) -> None:
    body = asking("Read the text.", max_tokens=150, ignore_eos=True)
    results: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: results.append(running.post("/v1/chat/completions", body))) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = {response.status_code for response in results}
    assert statuses == {200, 429}
    refused = next(response for response in results if response.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    answers = {r.json()["choices"][0]["message"]["content"] for r in results if r.status_code == 200}
    assert len(answers) == 1
    wait_until(lambda: idle(running))


def test_echo_scores_a_prompt(running: Running) -> None:
    """What lm-eval asks for: the log-probability of every token of a text, given as text or as ids."""
    ids = running.post("/tokenize", {"prompt": "Total 15"}).json()["tokens"]
    body = {"prompt": "Total 15", "echo": True, "max_tokens": 0, "logprobs": 1}
    whole = running.post("/v1/completions", body).json()
    choice = whole["choices"][0]
    assert choice["text"] == "Total 15"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert len(choice["logprobs"]["token_logprobs"]) == len(choice["logprobs"]["top_logprobs"]) == len(ids)
    assert whole["usage"]["completion_tokens"] == 0
    again = running.post("/v1/completions", body | {"prompt": ids, "max_tokens": 2, "ignore_eos": True}).json()[
        "choices"
    ][0]
    assert again["text"].startswith("Total 15")
    assert again["logprobs"]["token_logprobs"][: len(ids)] == choice["logprobs"]["token_logprobs"]
    assert len(again["logprobs"]["tokens"]) == len(ids) + 2
    # A prompt that ends earlier says the same of what it has: each token is scored by those before it.
    part = running.post("/v1/completions", body | {"prompt": ids[:-1]}).json()["choices"][0]["logprobs"]
    assert part["token_logprobs"][1:] == pytest.approx(choice["logprobs"]["token_logprobs"][1:-1], abs=1e-4)
    streamed = running.post("/v1/completions", body | {"stream": True}).text
    assert '"text":"Total 15"' in streamed


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt": [1, 10]}, "control token"),
        ({"prompt": [10**6]}, "vocabulary"),
        ({"prompt": [-1]}, "vocabulary"),
        ({"prompt": []}, "prompt"),
        ({"max_tokens": 0}, "echo"),
    ],
)
def test_prompts_that_are_refused(running: Running, change: dict[str, Any], word: str) -> None:
    answer = running.post("/v1/completions", {"prompt": "Total"} | change)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
