"""/v1/ocr, as Mistral defines it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import FastAPI, Request

from tessera.fetch import Stop
from tessera.server.handlers import Handlers, unless_left
from tessera.server.ocr_schemas import OcrRequest
from tessera.server.routes.files import tenant_of
from tessera.server.served_model import ServedModel


def add(app: FastAPI, handlers: Handlers) -> None:
    @app.post("/v1/ocr")
    async def ocr(body: OcrRequest, request: Request) -> dict[str, Any]:
        loop, stop = asyncio.get_running_loop(), Stop()
        adapter = handlers.names.adapter(body.model)
        model = ServedModel(handlers.backend, loop, handlers.tenant_of(request), lambda: stop.is_set, adapter=adapter)
        work = handlers.ocr.threads.start(partial(handlers.ocr.answer, body, tenant_of(request), model, stop))
        try:
            return await unless_left(request, asyncio.shield(work))
        finally:
            stop.set()
