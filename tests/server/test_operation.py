"""What an operator relies on: the address, signs to a supervisor, the prefix of a proxy, the log, the counts."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera.server.listen import AddressError, bind, listen
from tessera.server.run import startup_lines
from tessera.server.settings import Settings
from tessera.server.supervisor import notify
from tests import forks
from tests.server.conftest import Running, asking, run_server
from tests.server.test_http import idle, request_bytes, wait_until

# What boards and routers made for vLLM read.
VLLM_METRICS = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
    "prefix_cache_hits_total", "mm_cache_queries_total", "mm_cache_hits_total", "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket", "e2e_request_latency_seconds_bucket", "request_success_total",
    "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total", "request_queue_time_seconds_sum",
    "request_prefill_time_seconds_sum", "request_decode_time_seconds_sum", "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket", "request_time_per_output_token_seconds_bucket", "cache_config_info",
    "spec_decode_num_drafts_total", "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total",
)  # fmt: skip


# The address ----------------------------------------------------------------------------------


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = forks.run("tessera", "serve", "-m", "nano", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"tessera: error: 127.0.0.1:{port} is in use by another program; stop that, or choose another --port.\n"
    )


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7", "x" * 300])
def test_a_host_that_is_not_here(host: str) -> None:
    with pytest.raises(AddressError, match=r"not an address of this machine; use 127\.0\.0\.1"):
        bind(Settings(host=host, port=0))


def test_all_addresses_of_a_name_get_one_port() -> None:
    sockets = bind(Settings(host="localhost", port=0))
    assert len({each.getsockname()[1] for each in sockets}) == 1
    # Bound, but not listening: whoever comes before the model is there is refused, not kept waiting.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(sockets[0].getsockname()[:2])
    for each in sockets:
        each.close()


def test_a_unix_socket_is_taken_over_only_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    settings = Settings(uds=path)
    (first,) = bind(settings)
    first.listen()
    with pytest.raises(AddressError, match="in use by another server"):
        bind(settings)
    first.close()
    (second,) = bind(settings)  # what the first left behind is replaced
    second.close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(AddressError, match="not a socket"):
        bind(settings)
    assert path.read_text() == "precious"
    with pytest.raises(AddressError, match="choose another --uds"):
        bind(Settings(uds=tmp_path / ("x" * 200)))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path, socket.socket]]:
    """A server at a Unix socket, with keys in a file, settings in another, and a supervisor that listens."""
    folder = tmp_path_factory.mktemp("supervised")
    (folder / "keys").write_text("# one a line\nfirst\nsecond\n")
    (folder / "server.yaml").write_text(f"api-key-file: {folder / 'keys'}\nmax-num-seqs: 2\n")
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    supervisor.bind(str(folder / "notify"))
    supervisor.settimeout(120)
    flags = ["-m", "nano", "--uds", str(folder / "socket"), "--kv-cache-memory-bytes", "32M"]
    environment = os.environ | {
        "NOTIFY_SOCKET": str(folder / "notify"), "TESSERA_CONFIG": str(folder / "server.yaml"),
        "TESSERA_SERVED_MODEL_NAME": "eyes", "TESSERA_API_KEY": "third", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tessera", "serve", *flags], stderr=log, text=True, env=environment
        )
    yield process, folder, supervisor
    process.kill()
    process.wait()
    supervisor.close()


def test_a_supervised_server(supervised: tuple[subprocess.Popen[str], Path, socket.socket]) -> None:
    process, folder, supervisor = supervised
    told = b""
    while b"READY=1" not in told:
        told = supervisor.recv(4096)
    connection = UnixConnection(folder / "socket")  # READY is said when requests are answered
    connection.request("GET", "/v1/models")
    response = connection.getresponse()
    assert (response.status, response.read()[:9]) == (401, b'{"error":')
    for key in ("first", "second", "third"):
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        assert json.load(connection.getresponse())["data"][0]["id"] == "eyes"
    while b"WATCHDOG=1" not in told:
        told = supervisor.recv(4096)
    process.send_signal(signal.SIGTERM)
    while b"STOPPING=1" not in told:
        told = supervisor.recv(4096)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    assert not (folder / "socket").exists()
    log = (folder / "log").read_text()
    assert re.search(r"key/value cache: \d+ blocks of 16 tokens.* at most 2 run at once", log)
    assert re.search(r"ready after \d+\.\d s: Uvicorn running on unix:", log)
    assert "one of 3 API keys" in log
    assert not re.search(r"\b(first|second|third)\b", log)


def test_nobody_to_notify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    notify("READY=1")
    assert "cannot be written to" in caplog.text


# A proxy's prefix -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Running]:
    running = run_server(root_path="/vision", api_key=("secret",))
    yield running
    running.stop()


@pytest.mark.parametrize("prefix", ["", "/vision"], ids=["taken away by the proxy", "left"])
def test_a_server_below_a_prefix(prefixed: Running, prefix: str) -> None:
    key = {"authorization": "Bearer secret"}
    for path in ("/", "/health", "/web/app.js", "/web/config.json"):
        assert prefixed.get(prefix + path).status_code == 200, path
    for path in ("/v1/models", "/openapi.json", "/metrics/"):
        assert prefixed.get(prefix + path).status_code == 401
    # The page's links are relative, so it must be read below its prefix.
    response = prefixed.get("/vision")
    assert (response.status_code, response.headers["location"]) == (308, "/vision/")
    assert prefixed.get(prefix + "/v1/models", headers=key).status_code == 200
    assert prefixed.get(prefix + "/openapi.json", headers=key).json()["servers"] == [{"url": "/vision"}]
    assert prefixed.post(prefix + "/v1/chat/completions", asking(max_tokens=1), headers=key).status_code == 200


@pytest.mark.parametrize("path", ["/visionary", "/vision/vision/health", "/other/health", "//vision/health"])
def test_nothing_else_opens_the_door(prefixed: Running, path: str) -> None:
    assert prefixed.get(path).status_code == 401


# Log and counts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged() -> Iterator[Running]:
    running = run_server(access_log=True)
    yield running
    running.stop()


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "tessera.access"]


def test_the_access_log_has_times_and_no_content(logged: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = asking("What is the zebra's total?", max_tokens=3, ignore_eos=True)
    logged.post("/v1/chat/completions?key=private", body, headers={"x-request-id": "r-1"})
    logged.get("/v1/none%0aforged line")
    first, second = entries(caplog)[-2:]
    assert first.items() >= {"path": "/v1/chat/completions", "status": 200, "request_id": "r-1"}.items()
    assert (first["completion_tokens"], first["finish_reason"], "complete" in first) == (3, "length", False)
    assert first["image_tokens"] > 100
    assert first["queue_s"] + first["prefill_s"] + first["decode_s"] <= first["seconds"] + 0.001
    assert second["status"] == 404
    ours = "".join(record.message for record in caplog.records if record.name.startswith("tessera"))
    assert not re.search(r"zebra|private|\n", ours)


def test_an_answer_that_nobody_took_is_told(logged: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = asking("Read.", stream=True, max_tokens=3000, ignore_eos=True)
    connection, request = request_bytes(logged, body)
    connection.sendall(request)
    connection.recv(1000)
    connection.close()
    wait_until(lambda: any(entry.get("complete") is False for entry in entries(caplog)))
    wait_until(lambda: idle(logged))
    assert samples(logged)['tessera:request_success_total{finished_reason="abort",model_name="nano"}'] == 1


def samples(running: Running) -> dict[str, float]:
    text = running.get("/metrics").text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_the_counts_have_vllms_names(logged: Running) -> None:
    found = {name.partition("{")[0] for name in samples(logged)}
    for prefix in ("tessera:", "vllm:"):
        assert {prefix + name for name in VLLM_METRICS} <= found
    assert "process_resident_memory_bytes" in found


def test_the_counts_add_up(logged: Running) -> None:
    def growth(name: str, **labels: str) -> float:
        marks = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value - before.get(key, 0)
            for key, value in after.items()
            if key.startswith("tessera:" + name + "{") and all(mark in key for mark in marks)
        )

    before = samples(logged)
    # Salts share nothing, neither keys and values nor images' embeddings.
    for salt in ("one", "two", "three"):
        body = asking("Read.", max_tokens=5, ignore_eos=True, cache_salt=salt)
        assert logged.post("/v1/chat/completions", body).status_code == 200
    logged.get("/nothing")
    logged.get("/web/app.js")
    logged.get("/v1/models/" + "x" * 50)
    after = samples(logged)

    def counted() -> bool:
        nonlocal after
        after = samples(logged)
        return growth("http_requests_total", route="/web") > 0

    wait_until(counted)  # a file is counted once all of it was sent
    assert growth("generation_tokens_total") == growth("request_generation_tokens_sum") == 15
    assert growth("inter_token_latency_seconds_count") == 12
    assert growth("request_success_total", finished_reason="length") == 3
    assert growth("time_to_first_token_seconds_count") == growth("e2e_request_latency_seconds_count") == 3
    assert growth("mm_cache_queries_total") == 3
    assert growth("mm_cache_hits_total") == 0
    assert growth("images_encoded_total") == growth("mm_cache_queries_total") - growth("mm_cache_hits_total")
    assert growth("http_requests_total", route="/v1/chat/completions", status="200") == 3
    assert growth("http_requests_total", route="other", status="404") == 1
    assert growth("http_requests_total", route="/web", status="200") == 1
    assert growth("http_requests_total", route="/v1/models/{name:path}", status="404") == 1
    blocks = [after[f'tessera:kv_cache_blocks{{model_name="nano",state="{state}"}}'] for state in ("free", "cached")]
    assert sum(blocks) == logged.llm.config.num_blocks


def test_the_start_is_told(running: Running) -> None:
    lines = list(startup_lines(running.llm, Settings(host="0.0.0.0"), ()))
    text = "\n".join(lines)
    config = running.llm.config
    assert f"{config.num_blocks * 16 / config.max_model_len:.1f} requests of the full" in text
    assert "float32 on cpu" in text
    assert "WARNING: anyone" in lines[-1]
    assert "secret" not in "\n".join(startup_lines(running.llm, Settings(host="0.0.0.0"), ("secret",)))


# Replies -------------------------------------------------------------------------------------


def test_a_seed_for_requests_that_bring_none() -> None:
    replies = []
    for seed in (7, 7, 8):
        running = run_server(seed=seed, kv_cache_bytes=2**22)
        body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 5, "max_tokens": 12, "ignore_eos": True}
        texts = [running.post("/v1/chat/completions", body).json()["choices"][0]["message"] for _ in range(2)]
        running.stop()
        assert texts[0] != texts[1]
        replies.append(texts)
    assert replies[0] == replies[1] != replies[2]


def test_who_comes_second_while_the_first_still_loads() -> None:
    """Both could bind, since neither listened; the second is told before it says that it is ready."""
    (first,) = bind(Settings(port=0))
    (second,) = bind(Settings(port=first.getsockname()[1]))
    listen([first])
    with pytest.raises(AddressError, match="took the address while"):
        listen([second])
    first.close()
    second.close()
