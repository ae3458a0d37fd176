"""What one client may cost at the limits: the event loop's longest stall, and the process's memory, under each attack.

A server in a process of its own, with its default limits, is attacked while another client asks for /health again and
again. The bounds are far above what is seen (docs/serving.md says what that is) and far below what an attack wants.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tessera.server.body import MAX_JSON_VALUES
from tests.server.test_faults import started_server

MAX_STALL_S = 10.0  # what is seen on two idle cores is below half a second, and twenty programs may share them
MAX_GROWTH_BYTES = 700_000_000
BODY_BYTES = 63_000_000  # a little below max_body_bytes
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@dataclass
class Watched:
    """A server's process, and who asks for its health all the time."""

    process: subprocess.Popen[str]
    url: str
    stalls_s: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def probe(self) -> None:
        with httpx2.Client(timeout=600) as client:
            while not self.ended.is_set():
                began = time.monotonic()
                assert client.get(self.url + "/health").status_code == 200
                self.stalls_s.append(time.monotonic() - began)
                time.sleep(0.02)

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024

    def forget_peak(self) -> int:
        """Let the peak begin anew at what is resident, which is returned."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak_bytes()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    process, url = started_server("--no-access-log", "--kv-cache-bytes", "32M")
    watched = Watched(process, url)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert httpx2.post(url + "/v1/chat/completions", json=body, timeout=60).status_code == 200
    asker = threading.Thread(target=watched.probe)
    asker.start()
    yield watched
    watched.ended.set()
    asker.join(timeout=60)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


def sent(path: str, body: bytes) -> Callable[[Watched], None]:
    """An attack that is one request."""

    def attack(watched: Watched) -> None:
        headers = {"content-type": "application/json"}
        response = httpx2.post(watched.url + path, content=body, headers=headers, timeout=300)
        assert 400 <= response.status_code < 500, response.text[:200]

    return attack


def repeated(opening: bytes, entry: bytes, closing: bytes, size: int = BODY_BYTES) -> bytes:
    count = (size - len(opening) - len(closing)) // (len(entry) + 1)
    return opening + b",".join([entry] * count) + closing


def wrong_values(field: str, entry: bytes) -> bytes:
    """As many as the limit of values lets through."""
    opening, closing = b'{"' + field.encode() + b'":[', b"]}"
    return opening + b",".join([entry] * (MAX_JSON_VALUES // (1 + entry.count(b"{") + entry.count(b"[")) - 5)) + closing


def text_in(before: bytes, after: bytes) -> bytes:
    words = b"lorem ipsum dolor sit amet "
    return before + words * ((BODY_BYTES - len(before) - len(after)) // len(words)) + after


def flood(opening: bytes, endless: bytes) -> Callable[[Watched], None]:
    """An attack that never ends its request."""

    def attack(watched: Watched) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(watched.address, timeout=60) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head + opening)
            for _ in range(100_000_000 // len(endless)):
                connection.sendall(endless)

    return attack


def half_bodies(watched: Watched) -> None:
    """Twenty bodies of which the end never comes."""
    held = []
    for _ in range(20):
        connection = socket.create_connection(watched.address, timeout=60)
        held.append(connection)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with contextlib.suppress(ConnectionError):
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % BODY_BYTES + b" " * (BODY_BYTES - 10))
    time.sleep(1)
    for connection in held:
        connection.close()


CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"
USER = b'{"messages":[{"role":"user","content":"'
TOOL = (
    b'{"messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f","strict":false,'
)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ATTACKS: dict[str, Callable[[Watched], None]] = {
    "texts of numbers": sent(TEXTS, repeated(b'{"prompt":[', b'"x",5', b"]}")),
    "empty objects": sent(CHAT, repeated(b'{"user":[', b"{}", b"]}")),
    "objects in objects": sent(CHAT, b'{"messages":"x","user":[' + b",".join(
        [b'{"a":{"a":{"a":1}}}'] * (MAX_JSON_VALUES // 4 - 9)) + b"]}"),
    "keys": sent(CHAT, b'{"messages":"x","user":{' + b",".join(
        b'"k%d":1' % n for n in range(MAX_JSON_VALUES - 9)) + b"}}"),
    "wrong texts": sent(TEXTS, wrong_values("prompt", b'"x",5')),
    "wrong choices": sent(CHAT, wrong_values("guided_choice", b"5")),
    "wrong ids": sent("/detokenize", wrong_values("tokens", b'"x"')),
    "wrong include": sent("/v1/responses", wrong_values("include", b"{}")),
    "wrong lists": sent(TEXTS, wrong_values("prompt", b'["x"]')),
    "a text": sent(CHAT, text_in(USER, b'"}]}')), "a prompt": sent(TEXTS, text_in(b'{"prompt":"', b'"}')),
    "a tool's words": sent(CHAT, text_in(TOOL + b'"description":"', b'"}}]}')),
    "a tool's schema": sent(CHAT, text_in(TOOL + b'"parameters":{"type":"object","x":"', b'"}}}]}')),
    "a call's arguments": sent(CHAT, text_in(
        b'{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","tool_calls":[{"id":"a","type":"function",'
        b'"function":{"name":"f","arguments":"', b'"}}]},{"role":"tool","tool_call_id":"a","content":"x"}]}')),
    "one number": sent(CHAT, b'{"messages":"x","seed":' + b"9" * BODY_BYTES + b"}"),
    "white space": sent(CHAT, b"{" + b" " * BODY_BYTES + b"}"),
    "trailers": flood(CHUNKED + b"0\r\n", (b"a: " + b"x" * 1000 + b"\r\n") * 60),
    "one trailer": flood(CHUNKED + b"0\r\na: ", b"x" * 60_000), "an extension": flood(CHUNKED + b"5;a=", b"x" * 60_000),
    "headers": flood(b"a: ", b"x" * 60_000), "unfinished bodies": half_bodies,
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_one_client_costs_little_and_stops_nobody(watched: Watched, name: str) -> None:
    before = watched.forget_peak()
    watched.stalls_s.clear()
    ATTACKS[name](watched)
    deadline = time.monotonic() + 60
    while not watched.stalls_s:  # the answer that was asked for in the midst of it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stall, growth = max(watched.stalls_s), watched.peak_bytes() - before
    print(f"{name}: {stall:.2f} s, {growth / 1e6:.0f} MB")  # shown with -s
    assert stall < MAX_STALL_S
    assert growth < MAX_GROWTH_BYTES
