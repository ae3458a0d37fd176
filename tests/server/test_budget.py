"""What one client may cost at the limits: the event loop's longest stall, and the processes' memory, under each attack.

A server in a process of its own, with its default limits, is attacked while another client asks for /health again and
again. Memory is that of the server and of its children, which decode images and try grammars. The bounds are far
above what is seen (docs/serving.md says what that is) and far below what an attack wants.
"""

from __future__ import annotations

import base64
import contextlib
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image as PILImage

from tessera.server.body import MAX_JSON_VALUES
from tests import forks
from tests.server.test_faults import started_server
from tests.server.test_hostile import png, png_chunk
from tests.test_fetch import Dripping
from tests.test_images import encoded

MAX_STALL_S = 10.0  # what is seen on two idle cores is below half a second, and twenty programs may share them
MAX_GROWTH_BYTES = 700_000_000
MAX_DECODING_BYTES = 2_000_000_000  # two images of 64 megapixels at once, some 15 bytes a pixel each
BODY_BYTES = 63_000_000  # a little below max_body_bytes
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@dataclass
class Watched:
    """A server's process, and who asks for its health all the time."""

    process: forks.Command
    url: str
    stalls_s: list[float] = field(default_factory=list)
    highest_bytes: int = 0  # of the server and its children together, at any time
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
                self.peak_bytes()
                time.sleep(0.02)

    def processes(self) -> list[Path]:
        """The server, and those that it has started."""
        own = Path(f"/proc/{self.process.pid}")
        started = [(thread / "children").read_text().split() for thread in (own / "task").iterdir() if thread.exists()]
        return [own, *(Path(f"/proc/{pid}") for each in started for pid in each)]

    def peak_bytes(self) -> int:
        """The sum of their peaks, and the highest that it was: a child may have ended."""
        found = 0
        for process in self.processes():
            with contextlib.suppress(OSError):  # it has ended just now
                lines = (process / "status").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
        self.highest_bytes = max(self.highest_bytes, found)
        return self.highest_bytes

    def forget_peak(self) -> int:
        """Let the peaks begin anew at what is resident, which is returned."""
        for process in self.processes():
            with contextlib.suppress(OSError):
                (process / "clear_refs").write_text("5")
        self.highest_bytes = 0
        return self.peak_bytes()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    # URLs may lead to this machine, so that a host can be one of the test's own, and may take less long.
    opened = ("--allow-private-addresses", "--fetch-timeout-s", "3")
    process, url = started_server("--no-access-log", "--kv-cache-bytes", "32M", *opened)
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


def sent(path: str, make_body: Callable[..., bytes], *parts: Any) -> Callable[[Watched], None]:
    """An attack that is one request, whose large body is made when it is sent: every test process reads this file."""

    def attack(watched: Watched) -> None:
        headers = {"content-type": "application/json"}
        response = httpx2.post(watched.url + path, content=make_body(*parts), headers=headers, timeout=300)
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


def posted(watched: Watched, path: str, bodies: list[dict[str, Any]], *statuses: int) -> list[str]:
    """Requests at once; each ends with one of the statuses."""

    def send(body: dict[str, Any]) -> str:
        response = httpx2.post(watched.url + path, json=body, timeout=300)
        assert response.status_code in statuses, response.text[:300]
        return response.text

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(send, bodies))


def shown(image: Callable[[], bytes], *statuses: int) -> Callable[[Watched], None]:
    """The same image twice at once, each time as a new one, through a route that only prepares it."""

    def attack(watched: Watched) -> None:
        data = image()
        urls = [f"data:;base64,{base64.b64encode(data + bytes(number)).decode()}" for number in range(2)]
        contents = [[{"type": "image_url", "image_url": {"url": url}}] for url in urls]
        bodies = [{"messages": [{"role": "user", "content": content}]} for content in contents]
        posted(watched, "/tokenize", bodies, *statuses)

    return attack


def plain(width: int, height: int, kind: str, **options: Any) -> Callable[[], bytes]:
    return lambda: encoded(PILImage.new("RGB", (width, height), (9, 99, 199)), kind, **options)


def one_row() -> bytes:
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(3 * 2**20)) for _ in range(61)) + packer.compress(b"\0") + packer.flush()
    return png(61 * 2**20, 1, png_chunk(b"IDAT", rows))


def bomb() -> bytes:
    return png(100_000, 100_000, png_chunk(b"IDAT", zlib.compress(bytes(10_000_000), 1)))


def followed(*forms: dict[str, Any]) -> Callable[[Watched], None]:
    """Replies in forms that explode, or that are refused for it."""

    def attack(watched: Watched) -> None:
        asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "temperature": 2.0, "seed": 1}
        for text in posted(watched, CHAT, [asked | form for form in forms], 200, 400, 429, 503):
            assert "Traceback" not in text

    return attack


def schema(**words: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": words}}}


def dripping_hosts(watched: Watched) -> None:
    """Sixteen images from hosts that never come to an end, and one from a host that sends without end."""
    slow = Dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x")
    endless = Dripping(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(105_000_000), b"x")
    urls = [slow.url] * 16 + [endless.url]
    contents = [[{"type": "image_url", "image_url": {"url": url}}] for url in urls]
    began = time.monotonic()
    posted(watched, "/tokenize", [{"messages": [{"role": "user", "content": each}]} for each in contents], 400)
    assert time.monotonic() - began < 60
    slow.close()
    endless.close()


CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"
USER = b'{"messages":[{"role":"user","content":"'
TOOL = (
    b'{"messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f","strict":false,'
)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ATTACKS: dict[str, Callable[[Watched], None]] = {
    "texts of numbers": sent(TEXTS, repeated, b'{"prompt":[', b'"x",5', b"]}"),
    "empty objects": sent(CHAT, repeated, b'{"user":[', b"{}", b"]}"),
    "objects in objects": sent(CHAT, lambda: b'{"messages":"x","user":[' + b",".join(
        [b'{"a":{"a":{"a":1}}}'] * (MAX_JSON_VALUES // 4 - 9)) + b"]}"),
    "keys": sent(CHAT, lambda: b'{"messages":"x","user":{' + b",".join(
        b'"k%d":1' % n for n in range(MAX_JSON_VALUES - 9)) + b"}}"),
    "wrong texts": sent(TEXTS, wrong_values, "prompt", b'"x",5'),
    "wrong choices": sent(CHAT, wrong_values, "guided_choice", b"5"),
    "wrong ids": sent("/detokenize", wrong_values, "tokens", b'"x"'),
    "wrong include": sent("/v1/responses", wrong_values, "include", b"{}"),
    "wrong lists": sent(TEXTS, wrong_values, "prompt", b'["x"]'),
    "a text": sent(CHAT, text_in, USER, b'"}]}'), "a prompt": sent(TEXTS, text_in, b'{"prompt":"', b'"}'),
    "a tool's words": sent(CHAT, text_in, TOOL + b'"description":"', b'"}}]}'),
    "a tool's schema": sent(CHAT, text_in, TOOL + b'"parameters":{"type":"object","x":"', b'"}}}]}'),
    "a call's arguments": sent(
        CHAT, text_in,
        b'{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","tool_calls":[{"id":"a","type":"function",'
        b'"function":{"name":"f","arguments":"', b'"}}]},{"role":"tool","tool_call_id":"a","content":"x"}]}'),
    "one number": sent(CHAT, lambda: b'{"messages":"x","seed":' + b"9" * BODY_BYTES + b"}"),
    "white space": sent(CHAT, lambda: b"{" + b" " * BODY_BYTES + b"}"),
    "trailers": flood(CHUNKED + b"0\r\n", (b"a: " + b"x" * 1000 + b"\r\n") * 60),
    "one trailer": flood(CHUNKED + b"0\r\na: ", b"x" * 60_000), "an extension": flood(CHUNKED + b"5;a=", b"x" * 60_000),
    "headers": flood(b"a: ", b"x" * 60_000), "unfinished bodies": half_bodies,
    "a JPEG": shown(plain(8000, 8000, "JPEG", progressive=True, quality=30), 200),
    "a TIFF": shown(plain(8000, 8000, "TIFF", compression="tiff_lzw"), 200),
    "a WebP": shown(plain(4000, 4000, "WEBP", lossless=True, method=0, quality=0), 200),
    "an AVIF": shown(plain(4000, 4000, "AVIF", speed=10), 200), "a PNG of one row": shown(one_row, 200),
    "a PNG of zeros": shown(bomb, 400), "hosts that drip": dripping_hosts,
    "a regex": followed(*({"guided_regex": f"(a|b)*a(a|b){{{count}}}"} for count in range(20, 26)),
                        {"guided_regex": "\n" * 99_000}, {"guided_regex": "(a{0,300}){0,300}"},
                        {"guided_regex": "(" * 900 + "a|b" + ")*" * 900}),
    "a grammar": followed({"guided_grammar": "start: x" + "\n" * 90_000 + 'x: "a"'},
                          {"guided_grammar": 'root ::= "a"' + "\n" * 90_000},
                          {"guided_grammar": "start: " + "(" * 2000 + '"a"|"b"' + ")*" * 2000},
                          {"guided_grammar": "root ::= " + "(" * 5000 + '"a"' + ")*" * 5000},
                          {"guided_grammar": "start: r0\n" + "\n".join(
                              f"r{n}: r{n + 1} r{n + 1} | r{n + 1}" for n in range(60)) + '\nr60: "a"?'}),
    "a schema": followed(schema(allOf=[{"anyOf": [{"pattern": f"{a}{b}"} for b in range(9)]} for a in range(9)]),
                         schema(type="array", minItems=10**9, items={"type": "array", "minItems": 10**9}),
                         schema(type="string", minLength=10**9), schema(enum=[f"{n:06}" for n in range(9000)]),
                         schema(type="object", properties={f"p{n}": {"type": "integer"} for n in range(1500)}),
                         schema(**{"$ref": "#/$defs/a0", "$defs": {
                             f"a{n}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/a{(n + 1) % 300}"}}]}
                             for n in range(300)}})),
}  # fmt: skip
DECODED = {"a JPEG", "a TIFF", "a WebP", "an AVIF", "a PNG of one row"}


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
    assert growth < (MAX_DECODING_BYTES if name in DECODED else MAX_GROWTH_BYTES)
