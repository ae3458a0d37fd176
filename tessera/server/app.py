"""The application: routes, and every failure in the shape of its route. What a route does lies elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

import tessera
from tessera.errors import TesseraError
from tessera.load import BUNDLED, BUNDLED_FOLDER
from tessera.messages import parse_messages
from tessera.prompt import Tokenizer
from tessera.server.anthropic import failure_body
from tessera.server.backend import Backend
from tessera.server.body import JsonRoute
from tessera.server.errors import BadRequestError, error_headers, unexpected_error
from tessera.server.generate import ClientLeftError, Generator, field_named, unless_left
from tessera.server.guards import Guard
from tessera.server.hosts import host_patterns
from tessera.server.metrics import Metrics
from tessera.server.schemas import (
    ChatRequest,
    CompletionRequest,
    CountTokensRequest,
    DetokenizeRequest,
    MessagesRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from tessera.server.settings import Settings, api_keys
from tessera.server.translate import created_now
from tessera.server.validation_words import describe_mistake

logger = logging.getLogger(__name__)

WATCH_S = 1.0  # how often the engine's life is looked at
PAGE = Path(__file__).parent / "web"
DEMO = BUNDLED_FOLDER.parent / "demo"  # pictures that the page offers to try


def create_app(backend: Backend, settings: Settings, on_death: Callable[[], None] = lambda: None) -> FastAPI:
    """The server's application over a running engine; `on_death` is called when the engine has ended."""
    names = settings.served_model_name or (backend.model_name,)
    metrics = Metrics(backend, names[0])
    generator = Generator(backend, settings, metrics, names)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend.open()
        watching = asyncio.create_task(_watch(backend, on_death))
        yield
        watching.cancel()
        backend.close()

    app = FastAPI(
        title="Tessera", version=tessera.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat whatever Host header came
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )  # fmt: skip
    app.router.route_class = JsonRoute
    _add_routes(app, generator)
    _add_operation(app, generator)
    _add_page(app, generator)
    _add_failures(app)
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
    )
    if settings.allowed_origins:
        app.add_middleware(  # before the guard, since a browser asks first without a key
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=("GET", "POST"), allow_headers=("*",),
            allow_private_network=True, expose_headers=("x-request-id", "retry-after", "deprecation"),
        )  # fmt: skip
    return app


def _add_routes(app: FastAPI, generator: Generator) -> None:
    backend, names = generator.backend, generator.names
    started = created_now()

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await generator.chat(body, request)

    @app.post("/v1/responses")
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        return await generator.respond(body, request)

    @app.post("/v1/messages")
    async def messages(body: MessagesRequest, request: Request) -> Response:
        return await generator.message(body, request)

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountTokensRequest, request: Request) -> dict[str, int]:
        return await generator.count_tokens(body, request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await generator.complete(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, generator, started) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if not name:
            raise HTTPException(404)
        generator.check_model(name)
        return _model(name, generator, started)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        body.check_extra_fields()
        generator.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise BadRequestError("give either prompt or messages.", param="prompt")
        if body.messages is not None:
            preparing = backend.prompt(
                parse_messages(body.messages, lenient=True), body.tools or (), generator.tenant_of(request)
            )
            with field_named("messages"):
                ids = list((await unless_left(request, preparing)).ids)
        else:
            ids = await backend.encode(body.prompt or "", bos=body.add_special_tokens is not False)
        shown = await backend.call(_shown, backend.tokenizer, ids) if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": backend.config.max_model_len, "tokens": ids, "token_strs": shown}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        body.check_extra_fields()
        generator.check_model(body.model)
        return {"prompt": await backend.call(_text, backend.tokenizer, body.tokens)}


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.token_text(token) for token in ids]


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    if ids and max(ids) >= tokenizer.vocab_size:
        raise BadRequestError(
            f"token id {max(ids)} is not in the vocabulary of {tokenizer.vocab_size} ids.", param="tokens"
        )
    return tokenizer.decode(ids)


def _model(name: str, generator: Generator, started: int) -> dict[str, Any]:
    """What OpenAI's, vLLM's and Mistral's clients look for."""
    length = generator.backend.config.max_model_len
    return {
        "id": name,
        "object": "model",
        "created": started,
        "owned_by": "tessera",
        "max_model_len": length,
        "type": "base",
        "max_context_length": length,
        "aliases": [other for other in generator.names if other != name],
        "capabilities": {
            "completion_chat": True,
            "completion_fim": False,
            "function_calling": generator.calls_tools,
            "fine_tuning": False,
            "vision": True,
        },
    }


def _add_operation(app: FastAPI, generator: Generator) -> None:
    backend, settings = generator.backend, generator.settings

    def healthy() -> bool:
        return backend.alive and backend.is_sound and backend.silent_s < settings.stuck_after_s

    @app.get("/health")
    @app.get("/ping")
    async def health() -> Response:
        return Response(status_code=200 if healthy() else 503)

    @app.get("/ready")
    async def ready() -> Response:
        full = backend.num_waiting >= backend.config.max_queued_requests
        return Response(status_code=200 if healthy() and not full else 503)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": tessera.__version__}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generator.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI, generator: Generator) -> None:
    backend, settings = generator.backend, generator.settings

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/web/config.json", include_in_schema=False)
    async def config() -> dict[str, Any]:
        return {
            "model": generator.names[0],
            "bundled": settings.model == BUNDLED,
            "version": tessera.__version__,
            "patch_size": backend.vision.patch_size,
            "spatial_merge_size": backend.vision.spatial_merge_size,
            "image_size": backend.vision.image_size,
            "max_model_len": backend.config.max_model_len,
            "max_images": settings.limit_mm_per_prompt,
            "needs_key": bool(api_keys(settings)),
            "max_image_bytes": settings.max_image_bytes,
            "max_image_pixels": settings.max_image_pixels,
        }

    app.mount("/web/demo", StaticFiles(directory=DEMO), name="demo")
    app.mount("/web", StaticFiles(directory=PAGE), name="web")


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
        # Of text that is no JSON the path is a position, which names no field.
        field = "" if error.errors()[0]["type"] == "json_invalid" else path.removeprefix("body").removeprefix(".")
        return refuse(request, BadRequestError(f"{field or 'the body'} {words}.", param=field or None))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, TesseraError):  # of a guard, met while the body was read
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
        response.headers["x-request-id"] = request.state.request_id  # this handler is outside of the guard
        return response


async def _watch(backend: Backend, on_death: Callable[[], None]) -> None:
    """A server whose engine has ended can do nothing any more: it says so, and goes."""
    while backend.alive:
        await asyncio.sleep(WATCH_S)
    logger.error("the engine has ended")
    on_death()
