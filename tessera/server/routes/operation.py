"""Operational routes: health, readiness, version, metrics, and the web pages with their initial data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import tessera
from tessera.documents.review.packed import WEB as REVIEW
from tessera.load import BUNDLED, BUNDLED_FOLDER
from tessera.server.handlers import Handlers
from tessera.server.settings import api_keys

PAGE = Path(__file__).parents[1] / "web"
DEMO = BUNDLED_FOLDER.parent / "demo"  # sample images that the page offers


def add(app: FastAPI, handlers: Handlers) -> None:
    backend, settings = handlers.backend, handlers.settings

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
        return Response(handlers.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_page(app: FastAPI, handlers: Handlers) -> None:
    backend, settings = handlers.backend, handlers.settings

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/documents", include_in_schema=False)
    async def documents() -> Response:
        return FileResponse(PAGE / "documents.html")

    @app.get("/search", include_in_schema=False)
    async def search() -> Response:
        return FileResponse(PAGE / "search.html")

    @app.get("/web/config.json", include_in_schema=False)
    async def config() -> dict[str, Any]:
        return {
            "model": handlers.names.own[0],
            "bundled": settings.model == BUNDLED,
            "version": tessera.__version__,
            "patch_size": backend.vision.patch_size,
            "spatial_merge_size": backend.vision.spatial_merge_size,
            "image_size": backend.vision.image_size,
            "max_model_len": backend.config.max_model_len,
            "max_images": settings.limit_mm_per_prompt,
            "has_index": settings.index is not None,
            "needs_key": bool(api_keys(settings)),
            "max_image_bytes": settings.max_image_bytes,
            "max_image_pixels": settings.max_image_pixels,
        }

    app.mount("/web/demo", StaticFiles(directory=DEMO), name="demo")
    app.mount("/web/review", StaticFiles(directory=REVIEW), name="review")
    app.mount("/web", StaticFiles(directory=PAGE), name="web")
