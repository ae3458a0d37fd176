"""The guarded fetch, against a real server on the loopback address and against hostile addresses."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from tessera.errors import FetchError
from tessera.fetch import Stop, fetch, is_public


def get(url: str, *, private: bool = True, max_bytes: int = 1000, timeout_s: float = 5.0) -> bytes:
    return fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, allow_private_addresses=private)


def test_a_body_arrives(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a.png").respond_with_data(b"image")
    assert get(httpserver.url_for("/a.png")) == b"image"


def test_loopback_is_refused_by_default(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a.png").respond_with_data(b"secret")
    with pytest.raises(FetchError, match="only 80 and 443"):
        get(httpserver.url_for("/a.png"), private=False)
    assert not httpserver.log


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0",
     "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
     "224.0.0.1", "[fe80::1]", "[fc00::1]", "127.0.0.1."],
)  # fmt: skip
def test_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(FetchError) as refused:
        get(f"http://{host}/", private=False)
    # An odd spelling may also be no valid URL, or fail to resolve: then nothing is dialled either.
    assert any(words in str(refused.value) for words in ("private address", "is not known", "could not be fetched"))


def test_every_answer_of_the_resolver_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []

    def both(host: str, port: int, **rest: Any) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("10.0.0.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: dialled.append(a))
    with pytest.raises(FetchError, match="private address") as refused:
        get("http://rebinding.example/", private=False)
    assert not dialled
    assert "10.0.0.7" not in str(refused.value)


def test_redirects_are_followed_and_checked(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a").respond_with_response(Response(status=302, headers={"Location": "/b"}))
    httpserver.expect_request("/b").respond_with_data(b"there")
    assert get(httpserver.url_for("/a")) == b"there"
    httpserver.expect_request("/loop").respond_with_response(Response(status=302, headers={"Location": "/loop"}))
    with pytest.raises(FetchError, match="more than 3 times"):
        get(httpserver.url_for("/loop"))
    away = Response(status=302, headers={"Location": "file:///etc/passwd"})
    httpserver.expect_request("/file").respond_with_response(away)
    with pytest.raises(FetchError, match="only those are fetched"):
        get(httpserver.url_for("/file"))


def test_size_status_and_time(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/big").respond_with_data(b"x" * 5000)
    with pytest.raises(FetchError, match="larger than 1,000 bytes"):
        get(httpserver.url_for("/big"))
    httpserver.expect_request("/gone").respond_with_data(b"", status=404)
    with pytest.raises(FetchError, match="status 404"):
        get(httpserver.url_for("/gone"))

    def slow(request: Any) -> Response:
        def drip() -> Any:
            for _ in range(40):
                time.sleep(0.1)
                yield b"x"

        return Response(drip())

    httpserver.expect_request("/slow").respond_with_handler(slow)
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"longer than 0.5 s"):
        get(httpserver.url_for("/slow"), timeout_s=0.5)
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("url", ["ftp://a/b", "http:///x", "http://u:p@example.com/", "http://[::1", "http://a:99999/"])
def test_malformed_urls(url: str) -> None:
    with pytest.raises(FetchError):
        get(url)


@pytest.mark.parametrize("status", [300, 302, 304])
def test_a_redirect_to_nowhere_is_told_by_its_status(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request("/a.png").respond_with_data(b"", status=status)
    with pytest.raises(FetchError, match=f"status {status}"):
        get(httpserver.url_for("/a.png"))


def test_public_addresses() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    assert not is_public("::ffff:10.0.0.1")
    assert not is_public("192.88.99.1")
    inside_or_of_a_cloud = (
        "192.0.0.192 168.63.129.16 ::127.0.0.1 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b:1::1 fec0::1 ff02::1 "
        "2002:7f00:1:: 5f00::1 3fff::1 4000::1 ::1 fe80::1%eth0"
    )
    for inside in inside_or_of_a_cloud.split():
        assert not is_public(inside), inside


class Dripping:
    """A host on the loopback address that says what it is told to, byte after byte, and then goes on for ever."""

    def __init__(self, fast: bytes, slow: bytes, pause_s: float = 0.05) -> None:
        self._fast, self._slow, self._pause_s = fast, slow, pause_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/a.png"
        self.left = threading.Event()  # the client has closed its connection
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(self._fast)
            for position in itertools.count():
                connection.sendall(self._slow[position % len(self._slow) :][:1])
                time.sleep(self._pause_s)
        self.left.set()

    def close(self) -> None:
        self._listener.close()


OK = b"HTTP/1.1 200 OK\r\n"
PHASES = {
    "silence": (b"", b""),
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header's name": (OK, b"x"),
    "header's value": (OK + b"X-A: ", b"x"),
    "headers": (OK, b"A: b\r\n"),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"),
    "body": (OK + b"Content-Length: 900\r\n\r\n", b"x"),
    "body without length": (OK + b"\r\n", b"x"),
    "chunk's size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunk's extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"A: b\r\n"),
    "trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: ", b"b"),
}


@pytest.fixture(params=PHASES)
def dripping(request: pytest.FixtureRequest) -> Iterator[Dripping]:
    fast, slow = PHASES[request.param]
    host = Dripping(fast, slow or b"H", pause_s=3600 if not slow else 0.05)
    yield host
    host.close()


def test_the_deadline_holds_in_every_phase_of_an_answer(dripping: Dripping) -> None:
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"longer than 0\.6 s"):
        get(dripping.url, timeout_s=0.6)
    assert time.monotonic() - began < 20  # without it, for ever


def test_a_fetch_that_nobody_waits_for_ends_in_every_phase(dripping: Dripping) -> None:
    stop, ended = Stop(), threading.Event()

    def work() -> None:
        with pytest.raises(FetchError):
            fetch(dripping.url, max_bytes=1000, timeout_s=3600, allow_private_addresses=True, stop=stop)
        ended.set()

    threading.Thread(target=work).start()
    time.sleep(0.3)
    stop.set()
    assert ended.wait(30)


def test_one_deadline_covers_all_redirects(httpserver: HTTPServer) -> None:
    def slowly(request: Any) -> Response:
        time.sleep(0.4)
        return Response(status=302, headers={"Location": f"/{request.path.strip('/')}x"})

    httpserver.expect_request(re.compile("/.*")).respond_with_handler(slowly)
    with pytest.raises(FetchError, match=r"longer than 0\.7 s"):
        get(httpserver.url_for("/a"), timeout_s=0.7)


def test_a_name_that_is_looked_up_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: released.wait(60) and [])
    with pytest.raises(FetchError, match=r"longer than 0\.3 s"):
        get("http://slow.example/", timeout_s=0.3)
    stop = Stop()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(FetchError):
        fetch("http://slow.example/", max_bytes=9, timeout_s=3600, stop=stop)
    released.set()


def test_a_host_that_takes_no_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def dial(*arguments: Any, **more: Any) -> socket.socket:
        released.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(FetchError, match=r"longer than 0\.3 s"):
        get("http://127.0.0.1:9/", timeout_s=0.3)
    released.set()


def test_a_flood_beside_the_body_ends() -> None:
    host = Dripping(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * 100_000, b"x")
    with pytest.raises(FetchError, match="larger than 1,000 bytes"):
        get(host.url, timeout_s=60)
    host.close()


def test_a_tls_handshake_that_drips_ends() -> None:
    host = Dripping(b"", b"\x16")
    with pytest.raises(FetchError, match=r"longer than 0.5 s|could not be fetched"):
        get(host.url.replace("http:", "https:"), timeout_s=0.5)
    host.close()


# Through a proxy ------------------------------------------------------------------------------


def test_a_proxy_is_asked_and_names_are_its_to_resolve(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    httpserver.expect_request("/a.png").respond_with_data(b"image")
    proxy = httpserver.url_for("").rstrip("/")
    found = fetch("http://images.example/a.png", max_bytes=99, timeout_s=20, proxy=proxy)
    assert found == b"image"
    assert httpserver.log[0][0].headers["Host"] == "images.example"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "a.localhost", "localhost.", "10.0.0.1", "[::1]",
                                  "2130706433",
                                  "127.1", "0x7f000001", "169.254.169.254", "[::ffff:10.0.0.1]"])  # fmt: skip
def test_a_proxy_is_not_sent_to_literal_private_addresses(httpserver: HTTPServer, host: str) -> None:
    with pytest.raises(FetchError, match=r"private address|could not be fetched"):
        fetch(f"http://{host}/", max_bytes=99, timeout_s=20, proxy=httpserver.url_for("").rstrip("/"))
    assert not httpserver.log


def test_a_redirect_through_a_proxy_is_checked_too(httpserver: HTTPServer) -> None:
    away = Response(status=302, headers={"Location": "http://169.254.169.254/latest"})
    httpserver.expect_request("/a").respond_with_response(away)
    with pytest.raises(FetchError, match="private address"):
        fetch("http://public.example/a", max_bytes=99, timeout_s=20, proxy=httpserver.url_for("").rstrip("/"))
    assert len(httpserver.log) == 1
