"""The guarded fetch, against a real server on the loopback address and against hostile addresses."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from tessera.errors import FetchError
from tessera.fetch import fetch, is_public


def get(url: str, *, private: bool = True, max_bytes: int = 1000, timeout_s: float = 5.0) -> bytes:
    return fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, allow_private_addresses=private)


def test_a_body_arrives(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a.png").respond_with_data(b"picture")
    assert get(httpserver.url_for("/a.png")) == b"picture"


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


def test_public_addresses() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    assert not is_public("::ffff:10.0.0.1")
    assert not is_public("192.88.99.1")
