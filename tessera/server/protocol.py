"""The HTTP parser's limits: a head of bounded size that comes in bounded time, and refusals in one shape.

uvicorn's own parser bounds neither: one connection could fill the memory with headers that never end, or
be held for ever by a byte now and then. Bodies are `guards`' business.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tessera.server.errors import BadRequestError, error_object

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the headers exceed the limit of {MAX_HEAD_BYTES:,} bytes; send fewer.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:  # of the connection's first request it runs already
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._stop_timer()
        self._refuse(400, "the bytes are no HTTP request; check the client and what lies between.")

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(error_object(BadRequestError(text, status=status)))
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nx-should-retry: false\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body.encode())
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
