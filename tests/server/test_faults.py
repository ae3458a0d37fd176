"""When things break: the engine ends, the operator stops the server, a reader is slow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.conftest import Running, asking, run_server
from tests.server.test_http import assert_refused, idle, request_bytes, wait_until


@pytest.fixture
def breakable() -> Iterator[Running]:
    running = run_server()
    yield running
    running.stop()


def test_an_engine_that_ends_is_told_to_everybody(breakable: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(batch: Any) -> Any:
        raise RuntimeError("secret detail")

    body = asking("Read the text.", stream=True, max_tokens=3000, ignore_eos=True)
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", breakable.url + "/v1/chat/completions", json=body) as r,
    ):
        lines = r.iter_lines()
        next(line for line in lines if '"content":"' in line and '"content":""' not in line)
        monkeypatch.setattr(breakable.llm.loop.engine.runner, "run", broken)
        rest = [line for line in lines if line]
    assert "[DONE]" not in rest[-1]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert breakable.get("/health").status_code == 503
    assert breakable.get("/ready").status_code == 503
    refused = breakable.post("/v1/chat/completions", asking())
    assert_refused(refused, 503)
    assert "secret detail" not in refused.text


def test_a_slow_reader_delays_nobody(breakable: Running) -> None:
    body = asking("Read the text.", stream=True, max_tokens=1500, ignore_eos=True)
    connection, request = request_bytes(breakable, body)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(request)
    wait_until(lambda: breakable.llm.loop.engine.stats().running == 1)
    assert breakable.post("/v1/chat/completions", asking(max_tokens=5)).status_code == 200
    wait_until(lambda: idle(breakable), timeout_s=60)  # the engine waits for no reader
    connection.close()


def started_server(*flags: str) -> tuple[subprocess.Popen[str], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tessera", "serve", "--port", str(port), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if "Uvicorn running" in line:
            # Its pipe must not fill up and block it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, f"http://127.0.0.1:{port}"
    raise AssertionError("the server did not start")


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_lets_running_replies_end_and_a_second_does_not(signals: int) -> None:
    process, url = started_server("--shutdown-timeout", "60")
    body = asking("Read the text.", stream=True, max_tokens=400 if signals == 1 else 3500, ignore_eos=True)
    with httpx2.Client(timeout=120) as client, client.stream("POST", url + "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(line for line in lines if '"content":"' in line and '"content":""' not in line)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        try:
            rest = [line for line in lines if line]
        except httpx2.HTTPError:
            rest = [""]
    assert (rest[-1] == "data: [DONE]") is (signals == 1)
    process.wait(timeout=30)
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(url + "/health")
