"""Middleware before every route: path prefix, keys, hosts, body size, request ids, counts, access log.

Plain ASGI on the connection's raw path: the Host header must not be able to change what is
protected. Everything needs a key unless listed here. The key's owner is passed on to the route.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tessera.errors import EngineBusyError, TesseraError
from tessera.server.bodies import Bodies, Body
from tessera.server.errors import BadRequestError, error_headers, failure_body
from tessera.server.hosts import ANY, is_allowed

access = logging.getLogger("tessera.access")

OPEN_PATHS = frozenset({"/health", "/ready", "/ping", "/version"})
# The page runs only its own files and shows no external images: a model's text may be hostile.
PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
BODY_TIMEOUT_S = 300.0  # the largest body at 2 Mbit/s
UPLOAD_PATH = "/v1/files"
FORM_BYTES = 65_536  # of a form around its file
UPLOAD_TIMEOUT_S = 2400.0  # half a gigabyte at the same speed; it goes to the disk as it comes
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Guard:
    """Empty `keys` lets everybody in. `count` receives method, route and status of every response.

    A path below `root_path` loses that prefix, unless a proxy has already removed it. `signed` returns the owner
    of a path and query that need no key, else None.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        max_body_bytes: int,
        max_pending_body_bytes: int,
        metrics_need_key: bool,
        access_log: bool,
        hosts: Sequence[str] = (ANY,),
        root_path: str = "",
        count: Callable[[str, str, int], None] = lambda method, route, status: None,
        max_upload_bytes: int = 0,
        signed: Callable[[str, str], str | None] = lambda path, query: None,
    ) -> None:
        self.app = app
        self._root_path = root_path
        self._count = count
        self._hosts = tuple(hosts)
        self._bodies = Bodies(max_pending_body_bytes)
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._max_body_bytes, self._max_upload_bytes = max_body_bytes, max_upload_bytes
        self._signed = signed
        self._open = OPEN_PATHS if metrics_need_key else OPEN_PATHS | {"/metrics"}
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = self._below_root(scope)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
        state = scope.setdefault("state", {})
        state["request_id"], state["log"], state["tenant"] = request_id.decode(), {}, ""
        began, status, complete = time.perf_counter(), 500, False
        body = Body(self._bodies)

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                page = PAGE_HEADERS if is_page(scope["path"]) else ()
                own = (
                    (b"x-request-id", request_id), (b"request-id", request_id), (b"x-content-type-options", b"nosniff"),
                )  # fmt: skip  # the second name is Anthropic's
                message["headers"] = [*message["headers"], *own, *page]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            if self._root_path and scope["path"] == self._root_path:
                await _redirect(self._root_path + "/", send_with_id)  # the page's own links are relative
                return
            self._check_key(scope, headers)
            self._check_host(headers)
            self._check_length(scope, headers)
            counted = self._passed_on(receive) if is_upload(scope) else self._counted(receive, body)
            await self.app(scope, counted, send_with_id)
        except TesseraError as error:
            await _refuse(failure_body(error, scope["path"], request_id.decode()), error, send_with_id)
        finally:
            body.close()
            self._count(scope["method"] if scope["method"] in METHODS else "other", _route(scope), status)
            if self._access_log:
                self._log(scope, status, time.perf_counter() - began, complete)

    def _below_root(self, scope: Scope) -> Scope:
        path, root = scope["path"], self._root_path
        if not root or not path.startswith(root + "/"):
            return scope
        return {**scope, "path": path.removeprefix(root)}

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        if not self._digests or path in self._open or is_page(path):
            return
        if scope["method"] == "GET" and (owner := self._signed(path, scope["query_string"].decode("latin-1"))):
            scope["state"]["tenant"] = owner
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        token = token.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(token).digest()
        scope["state"]["tenant"] = digest.hex()
        # Compare every key, each in constant time.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):
            raise BadRequestError(
                "a valid API key is needed; send it as `Authorization: Bearer KEY`.", code="invalid_api_key", status=401
            )

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if not is_allowed(headers.get(b"host"), self._hosts):
            raise BadRequestError(
                "the Host header names another server; use one of this server's names, or add the name to "
                "allowed_hosts.",
                code="unknown_host",
            )

    def _check_length(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"")
        if is_upload(scope):
            if length.isdigit() and int(length[:20]) > self._max_upload_bytes + FORM_BYTES:
                raise self._too_large(self._max_upload_bytes, "max_file_bytes")
        elif length.isdigit() and int(length[:20]) > self._max_body_bytes:
            raise self._too_large(self._max_body_bytes, "max_body_bytes")

    def _counted(self, receive: Receive, body: Body) -> Receive:
        """Count a body as it arrives, regardless of its announced length, and limit the wait for its end."""
        seen = 0
        deadline: float | None = asyncio.get_running_loop().time() + BODY_TIMEOUT_S

        async def counted() -> Message:
            nonlocal seen, deadline
            message = await _receive_until(deadline, receive, body)
            if message["type"] == "http.request":
                num_bytes, more = len(message.get("body", b"")), bool(message.get("more_body"))
                seen += num_bytes
                if seen > self._max_body_bytes:
                    raise self._too_large(self._max_body_bytes, "max_body_bytes")
                if not more:
                    deadline = None  # from now on we wait only for the client to disconnect
                body.add(num_bytes, more=more)
            return message

        return counted

    def _passed_on(self, receive: Receive) -> Receive:
        """Limit an upload's bytes and time; it is no part of the budget, since it is not kept in memory."""
        seen = 0
        deadline: float | None = asyncio.get_running_loop().time() + UPLOAD_TIMEOUT_S

        async def counted() -> Message:
            nonlocal seen, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise BadRequestError(
                    f"the file did not arrive within {UPLOAD_TIMEOUT_S:g} s; send it again.", status=408
                ) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_upload_bytes + FORM_BYTES:
                    raise self._too_large(self._max_upload_bytes, "max_file_bytes")
                if not message.get("more_body"):
                    deadline = None
            return message

        return counted

    @staticmethod
    def _too_large(limit: int, setting: str) -> BadRequestError:
        return BadRequestError(
            f"the body exceeds the limit of {limit:,} bytes ({setting}); send less.",
            code="request_too_large",
            status=413,
        )

    def _log(self, scope: Scope, status: int, seconds: float, complete: bool) -> None:
        state = scope["state"]
        entry: dict[str, Any] = (
            {
                "client": str((scope.get("client") or ("unix",))[0])[:64],  # a proxy's header may have any length
                "method": scope["method"][:20],
                "path": scope["path"][:200],
                "status": status,
                "request_id": state["request_id"],
                "seconds": round(seconds, 4),
            }
            | state["log"]
        )
        if "first_token_s" in entry and "queue_s" in entry:
            entry["prefill_s"] = round(entry["first_token_s"] - entry["queue_s"], 4)
        if not complete:
            entry["complete"] = False  # the client left before the end of the response, or the response broke
        access.info(json.dumps(entry))


async def _receive_until(deadline: float | None, receive: Receive, body: Body) -> Message:
    """Receive the next message; raises BadRequestError after the deadline, EngineBusyError if the body was dropped."""
    try:
        if not body.given_up:
            async with asyncio.timeout_at(deadline) as body.timeout:
                return await receive()
    except TimeoutError:
        if not body.given_up:
            raise BadRequestError(
                f"the body did not arrive within {BODY_TIMEOUT_S:g} s; send the request again.", status=408
            ) from None
    finally:
        body.timeout = None
    raise EngineBusyError("the body stopped arriving and made way for others; send the request again.")


def is_upload(scope: Scope) -> bool:
    """Return True for a file that is sent to be kept."""
    return bool(scope["method"] == "POST" and scope["path"] == UPLOAD_PATH)


def is_page(path: str) -> bool:
    """Return True if a raw path is one of the pages or of their files, which everybody may read."""
    return path in ("/", "/documents", "/search") or path.startswith("/web/")


def _route(scope: Scope) -> str:
    """The route's pattern, not the requested path, of which there may be endlessly many."""
    if scope["path"].startswith("/web/"):
        return "/web"
    return getattr(scope.get("route"), "path", "other")


async def _redirect(path: str, send: Send) -> None:
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(told: Mapping[str, Any], error: TesseraError, send: Send) -> None:
    body = json.dumps(told).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error_headers(error)}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.http_status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
