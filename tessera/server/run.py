"""Starts everything in its order: settings, model, engine, application, HTTP server; and ends it again.

SIGTERM lets running requests end within the shutdown timeout and takes no new ones; a second one
aborts. If the engine ends, so does the process, with exit code 1, for a supervisor to restart it.
"""

from __future__ import annotations

import logging
import sys

import uvicorn
from fastapi import FastAPI

from tessera.errors import EngineDeadError
from tessera.llm import LLM
from tessera.server.app import create_app
from tessera.server.backend import Backend
from tessera.server.protocol import BoundedProtocol
from tessera.server.settings import Settings, api_keys
from tessera.sources import ImageLimits

logger = logging.getLogger("tessera.server")


def serve(settings: Settings) -> None:
    """Serve until a signal; raises what loading a model does, and EngineDeadError if the engine fails."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    api_keys(settings)  # a wrong key file shows before a large model is loaded
    llm = open_model(settings)
    for line in llm.config.describe():
        logger.info("%s", line)
    server: uvicorn.Server
    died = False

    def on_death() -> None:
        nonlocal died
        died = True
        server.should_exit = True

    server = uvicorn.Server(http_config(create_app(Backend(llm), settings, on_death), settings))
    server.run()
    if died:
        raise EngineDeadError("the engine ended, and with it the server; the log has the reason. Start it again.")
    if not server.started:
        sys.exit(1)  # uvicorn has said why, for example that the port is taken


def http_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the application is served over HTTP; no WebSockets, for there is nothing to say over them."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        uds=None if settings.uds is None else str(settings.uds),
        http=BoundedProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
        server_header=False,
    )


def open_model(settings: Settings) -> LLM:
    """The model with its engine, as the settings want it."""
    options = {
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "kv_cache_bytes": settings.kv_cache_bytes,
        "image_cache_bytes": settings.image_cache_bytes,
    }
    return LLM(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        limits=ImageLimits(
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
            fetch_timeout_s=settings.fetch_timeout_s,
            allow_private_addresses=settings.allow_private_addresses,
            domains=settings.allowed_media_domains,
            local_files=settings.allowed_local_media_path,
        ),
        enable_prefix_caching=settings.enable_prefix_caching,
        max_images_per_prompt=settings.limit_mm_per_prompt,
        max_queued_requests=settings.max_num_queued_reqs,
        **{name: value for name, value in options.items() if value is not None},
    )
