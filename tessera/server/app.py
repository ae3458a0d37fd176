"""The ASGI application: routes, guards, and error responses in each route's own format."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import tessera
from tessera.errors import TesseraError
from tessera.server.backend import Backend
from tessera.server.batches import Batches
from tessera.server.body import JsonRoute
from tessera.server.documents import OcrService
from tessera.server.errors import BadRequestError, error_headers, failure_body, unexpected_error
from tessera.server.files import FileStore
from tessera.server.guards import Guard
from tessera.server.handlers import ClientLeftError, Handlers
from tessera.server.hosts import host_patterns
from tessera.server.metrics import Metrics
from tessera.server.names import Names
from tessera.server.routes import (
    adapters,
    batch_jobs,
    chat,
    completions,
    extractions,
    files,
    messages,
    models,
    operation,
    responses,
    search,
)
from tessera.server.routes import batches as openai_batches
from tessera.server.routes import (
    ocr as ocr_route,
)
from tessera.server.routes.files import signed_owner
from tessera.server.settings import Settings, api_keys
from tessera.server.validation_words import describe_mistake

logger = logging.getLogger(__name__)

WATCH_S = 1.0  # how often to check that the engine is alive


def create_app(backend: Backend, settings: Settings, on_death: Callable[[], None] = lambda: None) -> FastAPI:
    """Build the application over a running engine; `on_death` is called when the engine dies."""
    names = Names(settings.served_model_name or (backend.model_name,), backend.adapters)
    metrics = Metrics(backend, names.own[0])
    store = FileStore(settings)
    ocr = OcrService(store, backend, settings, names)
    batches = Batches(ocr)
    handlers = Handlers(backend, settings, metrics, names, files=store, batches=batches, ocr=ocr)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend.open()
        batches.open()
        watching = asyncio.create_task(_watch(backend, on_death))
        yield
        watching.cancel()
        await asyncio.to_thread(batches.close)
        backend.close()
        store.close()

    app = FastAPI(
        title="Tessera", version=tessera.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat any Host header
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )  # fmt: skip
    app.router.route_class = JsonRoute
    for route in (
        adapters,
        batch_jobs,
        openai_batches,
        chat,
        completions,
        extractions,
        files,
        messages,
        models,
        ocr_route,
        operation,
        responses,
        search,
    ):
        route.add(app, handlers)
    operation.add_page(app, handlers)
    _add_failures(app)
    _add_middleware(app, settings, metrics, store)
    return app


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics, store: FileStore) -> None:
    app.add_middleware(
        Guard,
        keys=api_keys(settings),
        max_body_bytes=settings.max_body_bytes,
        max_pending_body_bytes=settings.max_pending_body_bytes,
        hosts=host_patterns(settings),
        metrics_need_key=settings.metrics_need_key,
        access_log=settings.access_log,
        root_path=settings.root_path,
        count=metrics.count_answer,
        max_upload_bytes=settings.max_file_bytes,
        signed=partial(signed_owner, store),
    )
    if settings.allowed_origins:
        app.add_middleware(  # before the guard: a browser's preflight has no key
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",), allow_private_network=True,
            expose_headers=("x-request-id", "retry-after", "deprecation"),
        )  # fmt: skip


def _add_failures(app: FastAPI) -> None:
    def refuse(request: Request, error: TesseraError) -> Response:
        body = failure_body(error, request.url.path, request.state.request_id)
        return JSONResponse(body, error.http_status, error_headers(error))

    @app.exception_handler(TesseraError)
    async def known(request: Request, error: TesseraError) -> Response:
        return refuse(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        path, words = describe_mistake(error.errors())
        # For invalid JSON the path is a position and names no field.
        field = "" if error.errors()[0]["type"] == "json_invalid" else path.removeprefix("body").removeprefix(".")
        return refuse(request, BadRequestError(f"{field or 'the body'} {words}.", param=field or None))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, TesseraError):  # raised by a guard while the body was read
            return refuse(request, error.__cause__)
        hint = "leave out the slash at its end" if request.url.path.endswith("/") else "see /openapi.json for all paths"
        texts = {404: f"there is nothing at this path; {hint}.", 405: "this path does not answer that method."}
        text = texts.get(error.status_code, "the request cannot be served as it is.")
        return refuse(request, BadRequestError(text, status=error.status_code))

    @app.exception_handler(ClientLeftError)
    async def left(request: Request, error: ClientLeftError) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("request %s failed", request.state.request_id, exc_info=error)
        response = refuse(request, unexpected_error())
        response.headers["x-request-id"] = request.state.request_id  # this handler runs outside the guard
        return response


async def _watch(backend: Backend, on_death: Callable[[], None]) -> None:
    """Wait for the engine to die, then log it and stop the server."""
    while backend.alive:
        await asyncio.sleep(WATCH_S)
    logger.error("the engine has ended")
    on_death()
