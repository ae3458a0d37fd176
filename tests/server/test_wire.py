"""What stands around a request: trailers, hosts, origins, bodies that never end, and whose cache it sees."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tessera.server.hosts import host_patterns, is_allowed
from tessera.server.protocol import MAX_HEAD_BYTES
from tessera.server.settings import Settings
from tests.server.conftest import CHART, RECEIPT, Running, asking, run_server
from tests.server.test_faults import started_server
from tests.server.test_hostile import spoken
from tests.server.test_http import assert_refused, idle, wait_until
from tests.server.test_operation import entries, samples

CHUNKED = b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING = CHUNKED.replace(b"Host", b"Connection: close\r\nHost")
BODY = json.dumps({"prompt": "Hi", "max_tokens": 1}).encode()


def connect(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def sent_until_cut(running: Running, opening: bytes, endless: bytes, limit: int = 30_000_000) -> int:
    """Bytes that the server took after `opening` before it hung up."""
    sent = 0
    with connect(running) as connection:
        connection.sendall(opening)
        try:
            while sent < limit:
                sent += connection.send(endless)
        except ConnectionError:
            return sent
    return sent


ENDLESS = {
    "trailers": (b"0\r\n", b"a: " + b"x" * 1000 + b"\r\n"), "one trailer": (b"0\r\na: ", b"x" * 1000),
    "a trailer's name": (b"0\r\n", b"x" * 1000), "an extension": (b"5;a=", b"x" * 1000),
    "extensions": (b"5", b";a=b" * 250), "a size of zeros": (b"0", b"0" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("first", [b"GET /health", b"POST /v1/completions", b"GET /v1/models", b"POST /nothing"])
@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_neither_head_nor_body_ends(running: Running, first: bytes, name: str) -> None:
    opening, endless = ENDLESS[name]
    # What the kernel's buffers hold is sent before the end shows.
    assert sent_until_cut(running, CHUNKED % first + opening, endless * 50) < 20_000_000
    assert running.get("/health").status_code == 200


def test_trailers_are_no_headers(locked: Running) -> None:
    """A key in a trailer comes too late, and a header that it would change keeps its value."""
    body = chunk(BODY) + b"0\r\nAuthorization: Bearer secret-one\r\nX-Request-Id: trailed\r\n\r\n"
    said = spoken(locked, CHUNKED % b"POST /v1/completions" + body)
    assert said.startswith(b"HTTP/1.1 401")
    assert b"trailed" not in said


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_honest_chunks_of_any_size_are_taken(running: Running, size: int) -> None:
    body = json.dumps({"prompt": "Hi", "max_tokens": 1, "user": "x" * 100 * size}).encode()
    parts = b"".join(chunk(body[at : at + size], b";note=1") for at in range(0, len(body), size))
    said = spoken(running, CLOSING % b"POST /v1/completions" + parts + b"0\r\nChecksum: abc\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200"), said[:200]


def test_small_chunks_may_cost_more_than_a_head(running: Running) -> None:
    body = json.dumps({"prompt": "Hi", "max_tokens": 1, "user": "x" * (MAX_HEAD_BYTES // 4)}).encode()
    parts = b"".join(chunk(body[at : at + 1]) for at in range(len(body)))
    assert len(parts) - len(body) > MAX_HEAD_BYTES
    said = spoken(running, CLOSING % b"POST /v1/completions" + parts + b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200"), said[:200]


def test_the_rest_of_an_answered_request_has_a_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.server.protocol.REST_TIMEOUT_S", 0.5)
    for opening in (
        CHUNKED % b"GET /health",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
    ):
        with connect(running) as connection:
            connection.sendall(opening)
            said = b""
            while more := connection.recv(65536):  # until the server hangs up, though nothing was ended
                said += more
            assert said.startswith(b"HTTP/1.1 200")


def test_who_reads_nothing_of_an_answer_is_left(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """More is answered than the system keeps; one who reads slowly gets it all."""
    monkeypatch.setattr("tessera.server.protocol.UNREAD_TIMEOUT_S", 0.6)
    request, count = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 400
    length = len(running.get("/openapi.json").content)
    with slow_reader(running) as connection:
        connection.sendall(request * count)
        time.sleep(3)
        assert read_to_end(connection, pause_s=0) < length * count  # it was left, not kept waiting
    with slow_reader(running) as connection:
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_to_end(connection, pause_s=0.05) > length


def read_to_end(connection: socket.socket, pause_s: float) -> int:
    num_bytes = 0
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(2048 if pause_s else 2**20):
            num_bytes += len(more)
            time.sleep(pause_s)
    return num_bytes


def slow_reader(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the server's side fills
    connection.settimeout(20)
    connection.connect((host, int(port)))
    return connection


def test_a_connection_is_kept_for_the_next_request(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.server.protocol.REST_TIMEOUT_S", 0.2)
    with connect(running) as connection:
        for _ in range(3):
            connection.sendall(CHUNKED % b"POST /v1/completions" + chunk(BODY) + b"0\r\n\r\n")
            said = b""
            while b'"usage"' not in said:
                said += connection.recv(65536)
            time.sleep(0.4)


# Hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "answered", "refused"),
    [
        (
            {},
            ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "127.9.9.9", "page.localhost", "localhost."],
            ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.1",
             "evil.example#localhost", "localhost@evil.example", "[::1].evil.example:80", "0x7f.1", "xlocalhost"],
        ),
        ({"host": "localhost"}, ["localhost"], ["evil.example"]),
        ({"host": "::1"}, ["[::1]", "localhost"], ["evil.example", "[::2]"]),
        ({"host": "127.0.1.1"}, ["127.0.1.1", "localhost"], ["evil.example"]),
        ({"host": "0.0.0.0"}, ["anything.example", "10.0.0.1"], []),
        ({"uds": "/tmp/s"}, ["anything.example"], []),
        ({"allowed_hosts": ("a.example",)}, ["a.example:1", "A.EXAMPLE"], ["localhost", "127.0.0.1", "b.a.example"]),
        ({"allowed_hosts": ("*.a.example",)}, ["b.a.example", "c.b.a.example:1"], ["a.example", "xa.example"]),
        ({"allowed_hosts": ("*",)}, ["evil.example"], []),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example",)}, ["a.example"], ["evil.example"]),
    ],
)  # fmt: skip
def test_whose_names_are_answered(settings: dict[str, Any], answered: list[str], refused: list[str]) -> None:
    patterns = host_patterns(Settings(**settings))
    assert [host for host in answered if not is_allowed(host.encode(), patterns)] == []
    assert [host for host in refused if is_allowed(host.encode(), patterns)] == []
    assert is_allowed(None, patterns)


@pytest.mark.parametrize("path", ["/health", "/", "/v1/models", "/metrics", "/health/", "/web/app.js", "/nothing"])
def test_a_foreign_host_reads_nothing(running: Running, path: str) -> None:
    response = running.get(path, headers={"host": "evil.example"}, follow_redirects=False)
    assert_refused(response, 400, "Host")
    assert "evil.example" not in response.text + str(response.headers)


@pytest.mark.parametrize("path", ["/health/", "/v1/chat/completions/", "/v1/models/", "/metrics/", "//evil.example/"])
def test_no_redirect_follows_a_slash(running: Running, path: str) -> None:
    for method in ("GET", "POST"):
        with httpx2.Client(follow_redirects=False) as client:
            response = client.request(method, running.url + path, json={})
        assert response.status_code in (404, 405)
        assert "location" not in response.headers
    assert "slash" in running.get(path).json()["error"]["message"]


def test_the_log_cuts_what_a_proxy_says(caplog: pytest.LogCaptureFixture) -> None:
    running = run_server(access_log=True)
    caplog.set_level(logging.INFO)
    running.get("/health", headers={"x-forwarded-for": "9" * 20_000, "x-forwarded-proto": "https" * 1000})
    running.stop()
    assert all(len(record.message) < 1000 for record in caplog.records)
    assert entries(caplog)[-1]["client"] == "9" * 64


# Origins --------------------------------------------------------------------------------------

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def crossed() -> Iterator[Running]:
    running = run_server(allowed_origins=(ORIGIN, "app://obsidian.md"), api_key=("one", "two"))
    yield running
    running.stop()


def preflight(running: Running, origin: str) -> httpx2.Response:
    headers = {"origin": origin, "access-control-request-method": "POST",
               "access-control-request-headers": "authorization,content-type,x-stainless-os"}  # fmt: skip
    with httpx2.Client() as client:
        return client.request("OPTIONS", running.url + "/v1/chat/completions", headers=headers)


def test_no_page_of_another_origin_reads_by_default(running: Running) -> None:
    assert preflight(running, ORIGIN).status_code >= 400
    for path in ("/health", "/v1/models", "/nothing"):
        response = running.get(path, headers={"origin": ORIGIN})
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [ORIGIN, "app://obsidian.md"])
def test_pages_of_allowed_origins_read_replies(crossed: Running, origin: str) -> None:
    asked = preflight(crossed, origin)  # which brings no key
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == origin
    assert {"authorization", "content-type"} <= set(asked.headers["access-control-allow-headers"].lower().split(","))
    headers = {"origin": origin, "authorization": "Bearer one"}
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": stream}
        reply = crossed.post("/v1/chat/completions", body, headers=headers)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == origin
    refused = crossed.post("/v1/chat/completions", {}, headers={"origin": origin})  # its page may read why
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil.example", ORIGIN + ":1"])
def test_pages_of_other_origins_read_nothing(crossed: Running, origin: str) -> None:
    assert preflight(crossed, origin).status_code == 400
    response = crossed.get("/v1/models", headers={"origin": origin, "authorization": "Bearer one"})
    assert response.headers.get("access-control-allow-origin") != origin
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("value", ["app.example", "https://a.example/", "https://*.example", "null", "https://", "a b"])
def test_an_origin_has_a_form(value: str) -> None:
    with pytest.raises(ValueError, match="allowed_origins"):
        Settings(allowed_origins=(value,))


# Unfinished bodies ----------------------------------------------------------------------------

MEGABYTE = 1_000_000


def half_body(running: Running, num_bytes: int) -> socket.socket:
    """A connection on which part of a larger body came."""
    connection = connect(running)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (num_bytes + 10) + b" " * num_bytes)
    return connection


def test_all_unfinished_bodies_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.server.bodies.PATIENCE_S", 0.5)
    running = run_server(max_pending_body_bytes=10 * MEGABYTE)
    silent = [half_body(running, 3 * MEGABYTE) for _ in range(3)]
    time.sleep(1.0)
    fresh = half_body(running, 3 * MEGABYTE)  # takes the place of the one that was silent longest
    silent[0].settimeout(20)
    said = silent[0].recv(65536)
    assert said.startswith(b"HTTP/1.1 429")
    assert b"retry-after" in said.lower()
    for connection in silent[1:]:
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    # One that is alone is always taken, and an honest request goes through meanwhile.
    assert running.post("/v1/chat/completions", asking(max_tokens=1)).status_code == 200
    for connection in (*silent, fresh):
        connection.close()
    alone = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "x" * 20 * MEGABYTE}
    wait_until(lambda: idle(running))
    assert running.post("/v1/chat/completions", alone).status_code == 200
    running.stop()


def test_a_newcomer_waits_while_all_others_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.server.bodies.PATIENCE_S", 600.0)
    running = run_server(max_pending_body_bytes=5 * MEGABYTE)
    others = [half_body(running, 2 * MEGABYTE) for _ in range(2)]
    time.sleep(0.5)
    body = {"messages": [{"role": "user", "content": "Hi"}], "user": "x" * 3 * MEGABYTE}
    refused = running.post("/v1/chat/completions", body)
    assert_refused(refused, 429, "max_pending_body_bytes")
    assert refused.headers["retry-after"] == "1"
    for connection in others:
        connection.close()
    wait_until(lambda: running.post("/v1/chat/completions", body | {"max_tokens": 1}).status_code == 200)
    running.stop()


HALVES = {
    "body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 200\r\n\r\n" + b" " * 100,
    "chunk": CHUNKED % b"POST /v1/completions" + b"5\r\nab",
    "head": b"GET /health HTTP/1.1\r\nHo",
}  # fmt: skip


def test_half_a_request_of_any_kind_does_not_hold_the_end() -> None:
    process, url = started_server("--shutdown-timeout", "60")
    host, port = url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as connections:
        for part in HALVES.values():
            connections.enter_context(socket.create_connection((host, int(port)))).sendall(part)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)  # half of what a running reply would get


# Tenants --------------------------------------------------------------------------------------


def cached(running: Running, key: str, image: str, **more: Any) -> int:
    body = asking("What is the total?", image, max_tokens=2, **more)
    reply = running.post("/v1/chat/completions", body, headers={"authorization": f"Bearer {key}"})
    return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def hits(running: Running) -> float:
    return sum(value for name, value in samples(running).items() if name.startswith("tessera:mm_cache_hits_total"))


def test_no_key_learns_what_another_asked(crossed: Running) -> None:
    assert cached(crossed, "one", RECEIPT) == 0
    assert cached(crossed, "one", RECEIPT) > 150  # one's own
    before = hits(crossed)
    assert cached(crossed, "two", RECEIPT) == 0
    assert hits(crossed) == before  # nor was the image's embedding another's
    assert cached(crossed, "two", RECEIPT) > 150
    assert cached(crossed, "one", RECEIPT, cache_salt="a") == 0
    assert cached(crossed, "two", RECEIPT, cache_salt="a") == 0
    assert hits(crossed) == before
    assert cached(crossed, "one", RECEIPT, cache_salt="a") > 150


def test_keys_share_their_cache_where_that_is_asked_for() -> None:
    running = run_server(api_key=("one", "two"), share_cache=True)
    assert cached(running, "one", CHART) == 0
    assert cached(running, "two", CHART) > 150
    running.stop()
