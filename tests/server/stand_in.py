"""A stand-in for the server that the web page talks to: its files, its policy, and canned answers.

The page's tests need every way an answer can go (whole, slow, refused, broken off), which no real model
gives on demand. A question's first word chooses; `requests` keeps what the page sent.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import tessera

WEB = Path(tessera.__file__).parent / "server" / "web"
DEMO = Path(tessera.__file__).parent / "nano" / "demo"
REVIEW = Path(tessera.__file__).parent / "documents" / "review" / "web"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
TYPES[".png"] = "image/png"
KEY = "a-good-key"
ANSWER = [("The", 0.998), (" total", 0.97), (" is", 0.99), (" **", 0.9), ("1", 0.99), ("5", 0.56), (".", 0.99)]
ANSWER += [("0", 0.31), ("0", 0.85), ("**", 0.99), (" ", 0.99), ("€", 0.96), (".", 0.99)]
REFUSALS = {
    "busy": (429, "Too many requests are waiting.", {"Retry-After": "7"}),
    "large": (413, "The limit is 64 MB.", {}),
    "failing": (500, "The engine has stopped.", {}),
}


class StandIn(ThreadingHTTPServer):
    """One page server on the loopback address; `answers` adds texts that a question's first word asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.config: dict[str, Any] = {
            "model": "pixtral", "bundled": False, "version": "0.0.0",
            "patch_size": 16, "spatial_merge_size": 1, "image_size": 1024,
            "max_model_len": 131072, "max_images": 8, "needs_key": False, "max_image_bytes": 50_000_000,
            "max_image_pixels": 64_000_000,
        }  # fmt: skip
        self.models = ["pixtral"]
        self.answers: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self.left = threading.Event()  # set when the page closed the connection of a slow answer
        self.go_on = threading.Event()  # a paused answer waits for it


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/web/config.json":
            return self._json(200, self.server.config)
        if self.path == "/v1/models":
            if self._refuses_key():
                return None
            models = [{"id": name, "max_model_len": 131072} for name in self.server.models]
            return self._json(200, {"object": "list", "data": models})
        path = WEB / ("index.html" if self.path == "/" else self.path.removeprefix("/web/"))
        if self.path.startswith("/web/demo/"):
            path = DEMO / self.path.removeprefix("/web/demo/")
        if self.path.startswith("/web/review/"):
            path = REVIEW / self.path.removeprefix("/web/review/")
        if not path.is_file():
            return self._json(404, {"error": {"message": f"There is no {self.path}."}})
        return self._send(200, TYPES[path.suffix], path.read_bytes())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        if self._refuses_key():
            return
        question = body["messages"][-1]["content"][-1]["text"]
        word = question.split()[0].lower()
        if word in REFUSALS:
            status, message, headers = REFUSALS[word]
            self._json(status, {"error": {"message": message, "type": "server_error"}}, headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in self._events(word):
                self.wfile.write(event.encode())
                self.wfile.flush()
        except OSError:
            self.server.left.set()

    def _events(self, word: str) -> Iterator[str]:
        yield ": keep-alive\n\n"
        yield _chunk({"role": "assistant", "content": ""})
        if word == "silent":
            self.server.go_on.wait(20)
        if word == "slow":
            while not self.server.go_on.wait(0.02):
                yield _chunk({"content": "tick "}, [_logprob("tick ", 0.99)])
            return
        if word == "think":
            yield _chunk({"reasoning_content": "Two <b>and</b>"}) + _chunk({"reasoning_content": " two."})
        if word in self.server.answers:
            yield _chunk({"content": self.server.answers[word]})
        else:
            for number, (token, probability) in enumerate(ANSWER):
                if number == 3:
                    if word in ("midway", "cut"):
                        yield 'data: {"error": {"message": "The engine ran dry."}}\n\n' if word == "midway" else ""
                        return
                    if word == "paused":
                        self.server.go_on.wait(20)
                yield from _token(token, probability)
        yield _chunk({}, reason="stop")
        usage = {"prompt_tokens": 4180, "completion_tokens": len(ANSWER) + 2, "total_tokens": 4195}
        usage["prompt_tokens_details"] = {"image_tokens": 4160, "cached_tokens": 16}  # type: ignore[assignment]
        yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    def _refuses_key(self) -> bool:
        if not self.server.config["needs_key"] or self.headers["Authorization"] == f"Bearer {KEY}":
            return False
        self._json(401, {"error": {"message": "The key is not known.", "type": "authentication_error"}})
        return True

    def _json(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(body).encode(), headers)

    def _send(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        security = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        for name, value in {**security, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a test's output is the test's."""


def _token(text: str, probability: float) -> Iterator[str]:
    """One token as the API streams it; a character of several bytes comes as one token for each byte."""
    data = text.encode()
    if len(data) == 1 or text.isascii():
        yield _chunk({"content": text}, [_logprob(text, probability)])
        return
    for number, byte in enumerate(data):
        entry = _logprob(f"<0x{byte:02X}>", probability, [byte])
        yield _chunk({"content": text if number == len(data) - 1 else ""}, [entry])


def _logprob(token: str, probability: float, data: list[int] | None = None) -> dict[str, Any]:
    others = [(token, probability), ("8", (1 - probability) * 0.7), ("3", (1 - probability) * 0.2)]
    top = [{"token": name, "logprob": math.log(value)} for name, value in others]
    data = data or list(token.encode())
    return {"token": token, "logprob": math.log(probability), "bytes": data, "top_logprobs": top}


def _chunk(delta: dict[str, str], logprobs: list[dict[str, Any]] | None = None, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    choice["logprobs"] = {"content": logprobs} if logprobs else None
    return _event({"choices": [choice]})


def _event(body: object) -> str:
    return f"data: {json.dumps(body)}\n\n"
