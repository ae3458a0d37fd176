"""Limits for the HTTP parser: everything besides a request's counted body is bounded in size and time.

uvicorn's own parser bounds neither: one connection could fill the memory with headers or trailers that
never end, or stay open forever with a byte now and then, or with a response that nobody reads. Bodies are `guards`'
business while somebody reads them; the rest of a request that was answered early has its own
time limit.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tessera.server.errors import BadRequestError, error_object

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0
REST_TIMEOUT_S = 10.0  # for the rest of a request that has been answered
UNREAD_TIMEOUT_S = 300.0  # during which the client takes no byte of a response, though some are ready
CLOSING_S = 3.0  # for a body still arriving when the server stops


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _loose_bytes = 0  # since a message began, its head ended, or its last body byte arrived
    _had_body = False  # in the bytes that are being parsed
    _in_message = False
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called for every byte not taken
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._had_body = False
        super().data_received(data)
        if not self._in_message:
            return
        # Framing before a body is covered by that body, which `guards` counts; only framing without one counts here.
        self._loose_bytes = 0 if self._had_body else self._loose_bytes + len(data)
        if self._loose_bytes > MAX_HEAD_BYTES:
            what = "the headers exceed" if self._in_head else "what follows the body exceeds"
            self._refuse(431, f"{what} the limit of {MAX_HEAD_BYTES:,} bytes; send less.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._loose_bytes = 0
        if self._head_timer is None:  # for the connection's first request it is already running
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is not a header: it arrives after the key was checked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._loose_bytes = False, 0
        self._stop_timers()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._had_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_timers()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self._in_head and self._rest_timer is None:
            self._rest_timer = self.loop.call_later(REST_TIMEOUT_S, self.transport.close)

    def shutdown(self) -> None:
        super().shutdown()
        if self._in_message and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(CLOSING_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _await_reader(self, unread: int) -> None:
        def check() -> None:
            left = self.transport.get_write_buffer_size()
            if left < unread:
                self._await_reader(left)
            else:
                self.transport.abort()  # closing would wait for the reader

        self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, check)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def send_400_response(self, msg: str) -> None:
        self._stop_timers()
        self._refuse(400, "the bytes are no HTTP request; check the client and what lies between.")

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = json.dumps(error_object(BadRequestError(text, status=status)))
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(body)}\r\nx-should-retry: false\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body.encode())
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._rest_timer = None
