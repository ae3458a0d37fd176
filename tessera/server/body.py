"""Fast, bounded parsing of JSON request bodies: 20 MB of images must not block the event loop.

pydantic's parser needs 3 ms for them, the standard library's 100 or more. It accepts only
JSON in UTF-8, nested at most 200 levels. Values, not bytes, cost time and memory,
so they are counted while the body arrives, by the characters that precede each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from tessera.server.errors import BadRequestError

# The costliest values take 140 bytes each once parsed; no context holds more token ids than this.
MAX_JSON_VALUES = 300_000


class JsonRequest(Request):
    async def body(self) -> bytes:
        """Read the whole body; raises BadRequestError as soon as it holds too many values."""
        if not hasattr(self, "_body"):
            body = bytearray()  # one growing buffer: joining pieces would take twice the memory
            try:
                await self._read_into(body)
            except BaseException:
                body.clear()  # the error's traceback would keep it until the next garbage collection
                raise
            self._body: bytes = body  # type: ignore[assignment]
        return self._body

    async def _read_into(self, body: bytearray) -> None:
        values = 0
        async for chunk in self.stream():
            values += num_values(chunk)
            check_values(values)
            body += chunk

    async def json(self) -> Any:
        """Parse the body; raises JSONDecodeError, as the framework expects, and BadRequestError for infinities."""
        return parsed_json(await self.body())


def num_values(data: bytes) -> int:
    """Bound the number of JSON values in a text by the characters that precede each."""
    return sum(data.count(sign) for sign in (b",", b"[", b"{"))


def check_values(count: int) -> None:
    """Raise BadRequestError for more values than one request may hold."""
    if count > MAX_JSON_VALUES:
        raise BadRequestError(
            f"the body has more than {MAX_JSON_VALUES:,} commas and brackets, which is the limit of values in "
            "one request; send less.",
            code="request_too_large",
        )


def parsed_json(data: bytes) -> Any:
    """Parse JSON; raises JSONDecodeError that says the place, and BadRequestError for infinities."""
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        place = re.search(r"at line (\d+) column (\d+)", str(error))
        raise json.JSONDecodeError(f"at line {place[1]}, column {place[2]}" if place else "", "", 0) from error
    if not _is_finite(value):
        raise BadRequestError("the body holds a number that is too large, such as 1e999; JSON has no infinity.")
    return value


class JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            if request.method == "POST":
                _check_content_type(request.headers.get("content-type", ""))
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


def _check_content_type(given: str) -> None:
    """Refuse content types that a cross-origin page may send without a preflight: they must not pass for JSON."""
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        shown = f"is {kind[:60]!r}" if kind else "is missing"
        raise BadRequestError(f"the content type {shown}; send the header Content-Type: application/json.")


def _is_finite(value: Any) -> bool:
    """Return True if no number is infinite: the parser refuses NaN and Infinity, but reads 1e999 as infinity."""
    rest = [value]
    while rest:
        value = rest.pop()
        if type(value) is dict:
            rest.extend(value.values())
        elif type(value) is list:
            rest.extend(value)
        elif type(value) is float and value - value != 0.0:
            return False
    return True
