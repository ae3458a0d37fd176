"""/v1/ocr, as Mistral defines it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import FastAPI, Request

from tessera.errors import EngineBusyError
from tessera.fetch import Stop
from tessera.server.handlers import Handlers, unless_left
from tessera.server.ocr_schemas import OcrRequest
from tessera.server.routes.files import tenant_of
from tessera.server.served_model import ServedModel

MAX_READING = 8  # documents at once


def add(app: FastAPI, handlers: Handlers) -> None:
    threads = ThreadPoolExecutor(MAX_READING, thread_name_prefix="tessera-ocr")
    reading = 0

    @app.post("/v1/ocr")
    async def ocr(body: OcrRequest, request: Request) -> dict[str, Any]:
        nonlocal reading
        if reading >= MAX_READING:
            raise EngineBusyError(f"{reading} documents are being read (at most {MAX_READING}); send it again later.")
        loop, stop = asyncio.get_running_loop(), Stop()
        model = ServedModel(handlers.backend, loop, handlers.tenant_of(request), lambda: stop.is_set)
        answer = partial(handlers.ocr.answer, body, tenant_of(request), model, stop)
        reading += 1
        work = loop.run_in_executor(threads, answer)
        work.add_done_callback(_ended)
        try:
            return await unless_left(request, asyncio.shield(work))
        finally:
            stop.set()

    def _ended(work: Any) -> None:
        nonlocal reading
        reading -= 1
        if not work.cancelled():
            work.exception()  # whoever asked may have left
