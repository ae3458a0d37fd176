"""When things break: the engine, one request of many, a connection, the process."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tessera.engine.grammar import GrammarCompiler, Matcher
from tessera.engine.runner import Runner
from tessera.engine.sampler import Sampler
from tessera.engine.text import TextStream
from tessera.llm import LLM
from tessera.prompt import Tokenizer
from tessera.server.routes.chat import ChatEvents
from tests import forks
from tests.server.conftest import Running, asking, run_server
from tests.server.test_http import assert_refused, idle, request_bytes, wait_until


@pytest.fixture
def breakable() -> Iterator[Running]:
    running = run_server()
    yield running
    running.stop()


def test_an_engine_that_fails_for_all_ends_and_tells_everybody(
    breakable: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Any) -> Any:
        raise RuntimeError("secret detail")

    body = asking("Read the text.", stream=True, max_tokens=3000, ignore_eos=True)
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", breakable.url + "/v1/chat/completions", json=body) as r,
    ):
        lines = r.iter_lines()
        next(line for line in lines if '"content":"' in line and '"content":""' not in line)
        monkeypatch.setattr(breakable.llm._loop.engine.runner, "run", broken)
        rest = [line for line in lines if line]
    assert "[DONE]" not in rest[-1]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert breakable.get("/health").status_code == 200  # so far it may have been that request's fault
    for _ in range(2):
        failed = breakable.post("/v1/chat/completions", asking())
        assert_refused(failed, 503)
        assert "secret detail" not in failed.text
    assert breakable.get("/health").status_code == 503
    assert breakable.get("/ready").status_code == 503
    refused = breakable.post("/v1/chat/completions", asking())
    assert_refused(refused, 503)
    assert "secret detail" not in refused.text


def test_a_slow_reader_delays_nobody(breakable: Running) -> None:
    body = asking("Read the text.", stream=True, max_tokens=700, ignore_eos=True)
    connection, request = request_bytes(breakable, body)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(request)
    wait_until(lambda: breakable.llm.stats().running == 1)
    assert breakable.post("/v1/chat/completions", asking(max_tokens=5)).status_code == 200
    wait_until(lambda: idle(breakable), timeout_s=60)  # the engine waits for no reader
    connection.close()


class Gate:
    """Lets the engine compute only as many steps as were permitted."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self._permits, self.begun = threading.Semaphore(0), 0
        self.loop = running.llm._loop
        compute = self.loop.engine.runner.run

        def gated(batch: Any, *rest: Any) -> Any:
            self.begun += 1
            assert self._permits.acquire(timeout=60)
            return compute(batch, *rest)

        monkeypatch.setattr(self.loop.engine.runner, "run", gated)

    def permit(self, steps: int) -> None:
        for _ in range(steps):
            self._permits.release()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_who_leaves_is_gone_after_the_step_at_hand(
    breakable: Running, monkeypatch: pytest.MonkeyPatch, phase: str, stream: bool
) -> None:
    gate = Gate(breakable, monkeypatch)
    stays = [
        request_bytes(breakable, asking(max_tokens=2, ignore_eos=True)) for _ in range(4 if phase == "queue" else 0)
    ]
    for connection, request in stays:
        connection.sendall(request)
    wait_until(lambda: len(gate.loop._handles) == len(stays))
    leaver, request = request_bytes(breakable, asking("Read the text.", stream=stream, max_tokens=900, ignore_eos=True))
    leaver.sendall(request)
    gate.permit(5 if phase == "decode" else 0)
    wait_until(lambda: len(gate.loop._handles) == len(stays) + 1)
    wait_until(lambda: gate.begun == (6 if phase == "decode" else 1))  # a step is at hand
    leaver.close()
    wait_until(lambda: gate.loop._aborted)
    gate.permit(1)  # the step that is being computed
    wait_until(lambda: "abort" in gate.loop.engine.stats().finished)
    assert gate.loop.engine.stats().steps == (6 if phase == "decode" else 1)
    gate.permit(100)
    for connection, _ in stays:
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
    wait_until(lambda: idle(breakable))
    assert gate.loop.engine.stats().finished["abort"] == 1


def test_who_leaves_while_a_worker_prepares_is_never_started(
    breakable: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    prepare = breakable.llm.prepare

    def slow(*arguments: Any) -> Any:
        began.set()
        assert go_on.wait(60)
        return prepare(*arguments)

    monkeypatch.setattr(breakable.llm, "prepare", slow)
    leavers = [request_bytes(breakable, asking("Read the text.", max_tokens=900)) for _ in range(6)]
    for connection, request in leavers:
        connection.sendall(request)
    assert began.wait(30)
    for connection, _ in leavers:
        connection.close()
    time.sleep(0.5)  # the server learns of it
    go_on.set()
    assert breakable.post("/v1/chat/completions", asking(max_tokens=2)).status_code == 200
    wait_until(lambda: idle(breakable))
    assert sum(breakable.llm.stats().finished.values()) == 1


def test_hosts_that_answer_slowly_delay_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", slow_resolver(socket.getaddrinfo))
    running = run_server()
    slow = asking("Hi", "http://slow.example/a.png")
    waiting = [threading.Thread(target=running.post, args=("/v1/chat/completions", slow)) for _ in range(6)]
    for thread in waiting:
        thread.start()
    began = time.monotonic()
    assert running.post("/v1/chat/completions", asking(max_tokens=2)).status_code == 200
    assert time.monotonic() - began < SLOW_S
    for thread in waiting:
        thread.join()
    running.stop()


SLOW_S = 5.0


def slow_resolver(resolve: Any) -> Any:
    def slow(host: Any, *rest: Any, **more: Any) -> Any:
        if str(host).endswith(".example"):
            time.sleep(SLOW_S)
            raise socket.gaierror
        return resolve(host, *rest, **more)

    return slow


def test_a_half_closed_connection_holds_nothing(breakable: Running) -> None:
    connection, request = request_bytes(breakable, asking("Read the text.", max_tokens=3000, ignore_eos=True))
    connection.sendall(request)
    wait_until(lambda: breakable.llm.stats().running == 1)
    connection.shutdown(socket.SHUT_WR)
    wait_until(lambda: idle(breakable))
    connection.close()


def test_who_sends_a_byte_now_and_then_delays_nobody_and_is_served(breakable: Running) -> None:
    connection, request = request_bytes(breakable, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})

    def drip() -> None:
        for byte in request:
            connection.send(bytes([byte]))
            time.sleep(0.01)

    sender = threading.Thread(target=drip)
    sender.start()
    while sender.is_alive():
        assert breakable.post("/v1/chat/completions", asking(max_tokens=2)).status_code == 200
    assert connection.recv(12) == b"HTTP/1.1 200"
    connection.close()


@pytest.mark.parametrize("part", ["head", "body"])
def test_who_never_ends_a_request_is_hung_up_on(breakable: Running, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr("tessera.server.protocol.HEAD_TIMEOUT_S", 1.0)
    monkeypatch.setattr("tessera.server.guards.BODY_TIMEOUT_S", 1.0)
    connection, request = request_bytes(breakable, asking(max_tokens=1))
    end = request.index(b"\r\n\r\n")
    connection.sendall(request[: end if part == "head" else end + 10])
    connection.settimeout(20)
    said = connection.recv(12)
    assert said == (b"" if part == "head" else b"HTTP/1.1 408")
    connection.close()


def test_a_stuck_engine_shows_in_health(monkeypatch: pytest.MonkeyPatch) -> None:
    running = run_server(stuck_after_s=1.5)
    gate = Gate(running, monkeypatch)
    connection, request = request_bytes(running, asking(max_tokens=1))
    connection.sendall(request)
    wait_until(lambda: running.get("/health").status_code == 503)
    gate.permit(100)
    wait_until(lambda: running.get("/health").status_code == 200)
    connection.close()
    running.stop()


# A fault of one request ------------------------------------------------------------------------

BAD = "<bad>"  # the request that is made to fail carries it in its text, and as its stop string
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "maxLength": 30}}}


def is_bad(owner: Any, arguments: Sequence[Any]) -> bool:
    """Whether a call is the marked request's: by its messages, its parameters or its stream of text."""
    if isinstance(owner, TextStream):
        return BAD in (arguments[1] if len(arguments) == 2 else owner._stops)
    if isinstance(owner, Sampler):
        return BAD in arguments[1].params.stop
    if isinstance(owner, Runner):
        return any(BAD in request.params.stop for request in arguments[0].sampled)
    return BAD in str(arguments[:1])


STAGES = [
    (LLM, "prepare"),
    (Tokenizer, "encode_chat"),
    (GrammarCompiler, "matcher"),
    (TextStream, "__init__"),
    (Runner, "run"),
    (Sampler, "_adjust"),
    (Matcher, "fill"),
    (Matcher, "accept"),
    (TextStream, "add"),
    (TextStream, "finish"),
    (Tokenizer, "token_text"),
    (ChatEvents, "delta"),
]


GOOD = [asking(text, max_tokens=60, ignore_eos=True) for text in ("What is the total?", "Read the text.")]


@pytest.fixture(scope="module")
def undisturbed(running: Running) -> list[Any]:
    """The replies to the others, while there is no fault."""
    return [running.post("/v1/chat/completions", body).json()["choices"][0] for body in GOOD]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("owner", "name"), STAGES, ids=[f"{owner.__name__}.{name}" for owner, name in STAGES])
def test_a_fault_of_one_request_leaves_the_others_as_they_were(
    running: Running, undisturbed: list[Any], monkeypatch: pytest.MonkeyPatch, owner: type, name: str, stream: bool
) -> None:
    wait_until(lambda: idle(running))
    whole = getattr(owner, name)

    def failing(self: Any, *arguments: Any, **more: Any) -> Any:
        if owner in (Matcher, GrammarCompiler, ChatEvents) or name == "token_text" or is_bad(self, arguments):
            raise RuntimeError("secret detail")  # only the marked request has a grammar, log-probabilities, a stream
        return whole(self, *arguments, **more)

    monkeypatch.setattr(owner, name, failing)
    more = {"response_format": SCHEMA, "logprobs": True, "top_logprobs": 2, "stop": [BAD], "max_tokens": 20}
    results: dict[int, httpx2.Response] = {}

    def send(number: int, body: dict[str, Any]) -> None:
        results[number] = running.post("/v1/chat/completions", body)

    bodies = [*GOOD, asking(BAD, stream=stream, **more)]
    threads = [threading.Thread(target=send, args=each) for each in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    monkeypatch.undo()
    assert [results[number].json()["choices"][0] for number in range(2)] == undisturbed
    bad = results[2]
    assert "secret" not in bad.text
    if owner is ChatEvents and not stream:
        assert bad.status_code == 200
    elif bad.status_code == 200:
        assert "[DONE]" not in bad.text
        assert "error" in json.loads(bad.text.rstrip().rpartition("data: ")[2])
    else:
        assert_refused(bad, bad.status_code)
        assert bad.status_code >= 500
        assert bad.headers["x-request-id"]
    wait_until(lambda: idle(running))
    assert running.llm.alive


# The process ----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started_server(*flags: str, port: int = 0) -> tuple[forks.Command, str]:
    port = port or free_port()
    process = forks.Command("tessera", "serve", "--port", str(port), *flags, folder=Path.cwd())

    def is_running() -> bool:
        assert process.poll() is None, f"the server ended: {process.stderr}"
        return "Uvicorn running" in process.stderr

    wait_until(is_running, timeout_s=120)
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_lets_running_replies_end_and_a_second_does_not(signals: int) -> None:
    process, url = started_server("--shutdown-timeout", "60", "--max-num-seqs", "4")
    body = asking("Read the text.", max_tokens=300 if signals == 1 else 3500, ignore_eos=True)
    ends: list[str] = []

    def ask(stream: bool) -> None:
        try:
            reply = httpx2.post(url + "/v1/chat/completions", json=body | {"stream": stream}, timeout=120)
            if reply.status_code != 200:
                ends.append(f"{reply.status_code} {reply.json()['error']['message']}")
            else:
                ends.append(reply.text[-14:] if stream else reply.json()["choices"][0]["finish_reason"])
        except httpx2.HTTPError:
            ends.append("broken off")

    clients = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]  # twice what runs at once
    for client in clients:
        client.start()
    wait_until(lambda: busy(url) == (4.0, 4.0))
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    for client in clients:
        client.join(timeout=120)
    assert len(ends) == 8
    if signals == 1:
        assert sorted(ends) == ["data: [DONE]\n\n"] * 4 + ["length"] * 4
    else:
        # A whole reply is refused with 503, a stream has an error event; who is not told within a second is cut off.
        told = ("503 the reply was ended by the server before it was complete", 'code":null}}\n\n', "broken off")
        assert all(end.startswith(told) for end in ends), ends
    process.wait(timeout=30)
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(url + "/health")


def busy(url: str) -> tuple[float, float]:
    """Requests that run and that wait, from the metrics."""
    text = httpx2.get(url + "/metrics").text
    names = ("tessera:num_requests_running{", "tessera:num_requests_waiting{")
    found = [line.rpartition(" ")[2] for name in names for line in text.splitlines() if line.startswith(name)]
    return float(found[0]), float(found[1])


def test_a_killed_server_leaves_nothing_in_the_way_of_the_next() -> None:
    port = free_port()
    process, url = started_server(port=port)
    body = asking("Read the text.", stream=True, max_tokens=3000, ignore_eos=True)
    with contextlib.suppress(httpx2.HTTPError), httpx2.stream("POST", url + "/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if '"content":"' in line:
                process.kill()
    process.wait(timeout=30)
    process, url = started_server(port=port)
    assert httpx2.post(url + "/v1/chat/completions", json=asking(max_tokens=2), timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
