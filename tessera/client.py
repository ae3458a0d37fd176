"""Client: a ChatModel for any server with OpenAI's chat API.

It behaves like the engine in this process: the same methods, parameters and errors. Temporary failures
(a full queue, a restarting server, a broken connection) are retried, with growing pauses that
the server may set. A reply that has begun is never requested twice.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tessera.chat import Conversation, Delta, ToolDefinitions, Tools
from tessera.client_format import (
    ReplyReader,
    context_of,
    error_of,
    message_object,
    params_object,
    tools_object,
    vision_of,
)
from tessera.errors import EndpointError, TesseraError, UnreachableError, UsageError
from tessera.messages import Message, images_digest, parse_messages
from tessera.model.config import VisionConfig
from tessera.sampling import SamplingParams
from tessera.sources import ImageLimits
from tessera.threads import ThreadedChatModel

RETRIED = {408, 429, 500, 502, 503, 504}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
MAX_REPLY_BYTES = 64_000_000  # of an answer, or of one event
MAX_REPLY_S = 3600.0  # of a whole answer: one that drips is never late by `timeout_s`
MAX_STREAM_BYTES = 1_000_000_000  # of a reply in pieces: each token's event states its log-probabilities
AFFINITY = "x-tessera-pages"  # a digest of a request's images, by which a proxy can choose the server that has them


class Client(ThreadedChatModel):
    """A model at `base_url` (http://host:port, with or without /v1); without `model`, the first one it serves.

    A wait for the next piece of a reply ends after `timeout_s` seconds, and one for all of it after an hour. Temporary
    failures are retried up to `max_retries` times. `each` and `batch` keep `concurrency` requests in flight. Nothing
    is sent to the server before the first request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 5,
        concurrency: int = 8,
        limits: ImageLimits | None = None,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UsageError(f"the endpoint {base_url[:80]!r} is no address; write it as http://host:port.")
        path = address.path.rstrip("/")
        self.base_url = address._replace(path=path if path.endswith("/v1") else f"{path}/v1", query="").geturl()
        self.limits = ImageLimits() if limits is None else limits
        self.max_retries, self.concurrency = max_retries, concurrency
        self._model = model
        self._closed = threading.Event()
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx2.Client(headers=headers, timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)))

    def __repr__(self) -> str:
        return f"Client({self.base_url!r}, model={self._model!r})"

    @property
    def model_name(self) -> str:  # type: ignore[override]
        """The model's name; asks the server if none was given. Raises EndpointError."""
        if self._model is None:
            listed = self._models()
            if not listed or not isinstance(listed[0].get("id"), str):
                raise EndpointError(f"{self.base_url} lists no model; name one.")
            self._model = str(listed[0]["id"])
        return self._model

    @cached_property
    def listed(self) -> Mapping[str, Any]:
        """What the server's list of models says of this one; nothing if it is not in it, or there is no such list."""
        name = self.model_name
        try:
            listed = self._models()
        except TesseraError as error:
            if error.answered in (None, 401, *RETRIED):
                raise
            return {}
        return next((each for each in listed if name in (each.get("id"), *_listed(each.get("aliases")))), {})

    @property
    def vision(self) -> VisionConfig | None:
        """How the model cuts images; None if the server does not tell, as only Tessera's do. Raises EndpointError."""
        return vision_of(self.listed)

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and reply together; None if the server does not tell. Raises EndpointError."""
        return context_of(self.listed)

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        """Yield the reply in pieces, tool calls whole. Leaving the iteration early ends the request."""
        parsed = parse_messages(messages)
        body = self._body(parsed, params, tools) | {"stream": True, "stream_options": {"include_usage": True}}
        digest = images_digest(parsed)
        began = time.perf_counter()
        with self._opened("POST", "/chat/completions", body, {AFFINITY: digest.hex()} if digest else {}) as response:
            yield from ReplyReader(began, self.base_url).read(self._events(response))

    def close(self) -> None:
        self._closed.set()  # ends retries and their pauses
        self._http.close()

    def _body(
        self, messages: Sequence[Message], params: SamplingParams | None, tools: Tools | ToolDefinitions
    ) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "messages": [message_object(message, self.limits) for message in messages],
            **params_object(params or SamplingParams()),
            **tools_object(Tools.of(tools)),
        }

    def _models(self) -> list[Mapping[str, Any]]:
        with self._opened("GET", "/models") as response:
            body = _parsed(_whole(response))
        if not isinstance(body, dict):
            error = EndpointError(f"{self.base_url}/models did not answer with a JSON object; check the address.")
            error.answered = response.status_code
            raise error
        return [each for each in _listed(body.get("data")) if isinstance(each, Mapping)]

    @contextmanager
    def _opened(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Open a response with a successful status, retrying as often as allowed."""
        for number in range(self.max_retries + 1):
            if self._closed.is_set():
                raise EndpointError(f"the client of {self.base_url} was closed.")
            request = self._http.build_request(method, self.base_url + path, json=body, headers=headers)
            try:
                response = self._http.send(request, stream=True)
            except httpx2.HTTPError as error:
                if self._is_last(number) or not _passes(error):
                    raise self._unreachable(error) from error
                _pause_for(self._closed, _pause_seconds(number, None))
                continue
            try:
                if response.status_code < 300:
                    yield response
                    return
                error_text = _whole(response)
            except httpx2.HTTPError as error:
                raise self._unreachable(error) from error
            finally:
                response.close()
            may_retry = response.headers.get("x-should-retry") != "false"
            wanted = response.headers.get("retry-after")
            if self._is_last(number) or response.status_code not in RETRIED or not may_retry:
                failure = error_of(response.status_code, _parsed(error_text), self.base_url + path)
                failure.answered, failure.retry_after_s = response.status_code, _seconds_of(wanted)
                raise failure
            _pause_for(self._closed, _pause_seconds(number, wanted))

    def _is_last(self, number: int) -> bool:
        return number == self.max_retries or self._closed.is_set()

    def _events(self, response: httpx2.Response) -> Iterator[Any]:
        """Yield the JSON of each event until [DONE], or the one object of a server that does not stream."""
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            yield _parsed(_whole(response))
            return
        for line in _lines(response):
            if line.startswith("data:"):
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                yield _parsed(data)

    def _unreachable(self, error: httpx2.HTTPError) -> EndpointError:
        text = f"{self.base_url} cannot be reached; start the server, or check the address."
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return UnreachableError(text)
        if isinstance(error, httpx2.TimeoutException):
            return EndpointError(f"{self.base_url} did not answer in time; is it loading, or is timeout_s too short?")
        return EndpointError(text)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pieces(response: httpx2.Response, most: int) -> Iterator[bytes]:
    """Yield the body as it comes; raises EndpointError if it does not end, or not in time."""
    size, until = 0, time.monotonic() + MAX_REPLY_S
    for piece in response.iter_bytes():
        size += len(piece)
        if size > most:
            raise EndpointError(f"the answer exceeds {most:,} bytes; check the address.")
        if time.monotonic() > until:
            raise EndpointError(f"the answer is not whole after {MAX_REPLY_S:,g} s; ask for less, or check the server.")
        yield piece


def _whole(response: httpx2.Response) -> str:
    return b"".join(_pieces(response, MAX_REPLY_BYTES)).decode("utf-8", "replace")


def _lines(response: httpx2.Response) -> Iterator[str]:
    """Yield the lines of an event stream; raises EndpointError if one does not end."""
    held = bytearray()
    for piece in _pieces(response, MAX_STREAM_BYTES):
        held += piece
        if b"\n" in piece:
            *lines, held = held.split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if len(held) > MAX_REPLY_BYTES:
            raise EndpointError(f"an event of the answer exceeds {MAX_REPLY_BYTES:,} bytes; check the address.")
    yield held.decode("utf-8", "replace")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _passes(error: httpx2.HTTPError) -> bool:
    """Return True for errors worth a retry: not for a wait of the full timeout."""
    return not isinstance(error, httpx2.ReadTimeout)


def _pause_seconds(number: int, wanted: str | None) -> float:
    """Return the wait before the next try: as long as the server says, or doubling."""
    if (seconds := _seconds_of(wanted)) is None:
        seconds = min(FIRST_PAUSE_S * 2**number * random.uniform(0.75, 1.25), LONGEST_PAUSE_S)
    return seconds


def _seconds_of(wanted: str | None) -> float | None:
    """Read a Retry-After header in seconds, within bounds; None without one, or if it is a date."""
    try:
        seconds = float(wanted or "nan")
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_PAUSE_S)


def _pause_for(closed: threading.Event, seconds: float) -> None:
    closed.wait(seconds)
