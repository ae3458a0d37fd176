"""Server startup and shutdown, in order: settings, address, model, engine, application, HTTP server.

SIGTERM stops new requests and lets running ones finish within the shutdown timeout; a second one
aborts them. If the engine dies, the process exits with code 1, for a supervisor to restart it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from tessera import __version__
from tessera.engine.config import OPTIONS, UTILIZATION
from tessera.errors import EngineDeadError, TesseraError, UsageError
from tessera.linears.quantized import PLAIN, count_weights
from tessera.llm import LLM
from tessera.load import locate
from tessera.lora.files import find_adapter
from tessera.server.app import create_app
from tessera.server.backend import Backend, LocalBackend
from tessera.server.listen import address_of, is_public, listen
from tessera.server.loading import logged_progress
from tessera.server.protocol import BoundedProtocol
from tessera.server.settings import OTHER_NAMES, Settings, api_keys, check_folders, in_settings_words
from tessera.server.supervisor import notify
from tessera.shelf import ModelSource
from tessera.sources import ImageLimits
from tessera.weights.detect import detect

logger = logging.getLogger("tessera.server")

MIB = 2**20
# Proxies keep idle connections for a minute, nginx and cloud load balancers alike. The server must not close
# first: a request just being sent would fail.
IDLE_CONNECTION_S = 75
WATCHDOG_S = 10  # between two watchdog messages to the supervisor
ABORT_S = 1.0  # to send the last events of aborted requests
# Settings that ModelSource, ImageLimits and the engine call by another name; all others share one name.
TAKEN_AS = OTHER_NAMES | {
    "model": "name",
    "allowed_media_domains": "domains",
    "allowed_local_media_path": "local_files",
    "image_proxy": "proxy",
}


def serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve on bound sockets until a signal; raises as model loading does, and EngineDeadError if the engine dies.

    Closes the sockets at the end.
    """
    began = time.monotonic()
    start_log(verbose=settings.verbose)
    try:
        keys = api_keys(settings)  # report a bad key file before a large model is loaded
        check_folders(settings)
        logger.info("tessera %s loads %s", __version__, settings.model)
        notify(f"STATUS=loading {settings.model}")
        llm = open_model(settings)
        for line in startup_lines(llm, settings, keys):
            logger.info("%s", line)
        died = run_until_signal(LocalBackend(llm), settings, sockets, began)
    finally:
        _leave(sockets, settings)
    if died:
        raise EngineDeadError("the engine ended, and with it the server; the log has the reason. Start it again.")


def http_config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    """The uvicorn configuration; WebSockets are off because nothing uses them."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=round(settings.shutdown_timeout),
        timeout_keep_alive=IDLE_CONNECTION_S,
        server_header=False,
        **more,
    )


def start_log(*, verbose: bool) -> None:
    """Log our own lines to standard error, uvicorn's if wanted, and only warnings from other libraries."""
    plain = sys.stderr.isatty() and not verbose
    form = "%(message)s" if plain else "%(asctime)s %(levelname)s %(name)s %(message)s"
    # At INFO the HTTP client that fetches images logs every URL, and those may be secret.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=form, force=True)
    logging.getLogger("tessera").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.INFO if verbose else logging.WARNING)


def open_model(settings: Settings, adapter: Path | None = None) -> LLM:
    """Open the model and its engine from the settings; an error names the settings.

    All replies are computed with `adapter`, if it is given.
    """
    try:
        return _open_model(settings, adapter)
    except TesseraError as error:
        raise type(error)(in_settings_words(str(error))) from error


def _open_model(settings: Settings, adapter: Path | None) -> LLM:
    source = replace(source_of(settings), adapter=adapter)
    for module in settings.lora_modules:  # a mistake shows before a large model is loaded
        find_adapter(Path(module.path).expanduser())
        if module.base not in (None, settings.model, *settings.served_model_name):
            raise UsageError(
                f"the adapter {module.name!r} is said to be for the model {module.base!r}, and this server has "
                f"{settings.model!r}; serve that, or leave base_model_name out."
            )
    _check_layout(settings, detect(Path(locate(source).name)))
    limits = ImageLimits(
        **_taken(settings, [each.name for each in fields(ImageLimits)]), flags=("max_pixels", "max_bytes")
    )
    options = {name: value for name, value in _taken(settings, (*OPTIONS, UTILIZATION)).items() if value is not None}
    if settings.enforce_eager:
        options["cuda_graphs"] = False
    if settings.enable_lora:
        count = len(settings.lora_modules)
        options = {"max_loras": max(1, count)} | options
        options = {"max_cpu_loras": max(8, count, options["max_loras"])} | options
    llm = LLM(source, limits=limits, vision_bits=settings.vision_bits, progress=logged_progress(), **options)
    try:
        for module in settings.lora_modules:
            llm.adapters.load(module.name, module.path, taken=settings.served_model_name or (llm.model_name,))
    except BaseException:
        llm.close()
        raise
    return llm


def source_of(settings: Settings) -> ModelSource:
    """The model that the settings name, and how it is opened."""
    return ModelSource(**_taken(settings, [each.name for each in fields(ModelSource) if each.name != "adapter"]))


def _taken(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The settings with these names, after the renames in TAKEN_AS."""
    own = {other: name for name, other in TAKEN_AS.items()}
    found = {name: own.get(name, name) for name in names}
    return {name: getattr(settings, setting) for name, setting in found.items() if setting in Settings.model_fields}


def startup_lines(llm: LLM, settings: Settings, keys: Sequence[str]) -> Iterator[str]:
    """Startup lines for the operator: model, cache, limits, who has access, and why."""
    config, model = llm.config, llm.model
    counts = count_weights(model)
    size = counts.total() / 1e6
    shares = [f"{count / 1e6:,.1f} million in {scheme}" for scheme, count in counts.items() if scheme != PLAIN]
    dtype = str(model.dtype).removeprefix("torch.")
    count = settings.tensor_parallel_size
    shared = f", the share of the first of {count} processes" if count > 1 else ""
    precision = f"{' and '.join(shares)}, the rest in {dtype}," if shares else f"in {dtype}"
    yield (
        f"model {llm.model_name}: {size:,.1f} million parameters {precision} on {model.device}"
        f"{'' if shares else ', not quantized'}{shared}"
    )
    for note in llm.notes:
        yield f"model {llm.model_name}: {note}"
    for each in llm.adapters:
        yield f"adapter {each.name}: {each.summary}, from {each.path}"
    tokens = config.num_blocks * config.block_tokens
    yield (
        f"key/value cache: {config.num_blocks:,} blocks of {config.block_tokens} tokens, {tokens:,} tokens in "
        f"{config.kv_cache_bytes // MIB:,} MiB: {tokens / config.max_model_len:.1f} requests of the full "
        f"{config.max_model_len:,} tokens; at most {config.max_num_seqs} run at once, {config.max_queued_requests} wait"
    )
    if settings.verbose:
        yield from _details(llm, settings)
    if keys:
        yield f"access: one of {len(keys)} API keys is required"
    elif is_public(settings):
        yield f"access: WARNING: anyone who can reach {settings.host} may use this server; set keys with --api-key-file"
    else:
        yield "access: open to this machine; set keys with --api-key or --api-key-file"


def _details(llm: LLM, settings: Settings) -> Iterator[str]:
    config = llm.config
    yield (
        f"limits of a request: {config.max_model_len:,} tokens, {settings.max_body_bytes:,} bytes, "
        f"{settings.limit_mm_per_prompt} images, each of {settings.max_image_bytes:,} bytes and "
        f"{settings.max_image_pixels:,} pixels"
    )
    hosts = "any host" if settings.allowed_media_domains is None else ", ".join(settings.allowed_media_domains)
    reach = "private networks too" if settings.allow_private_addresses else "public addresses only"
    folder = settings.allowed_local_media_path
    yield f"images: URLs of {hosts or 'no host'} ({reach}); files {f'below {folder}' if folder else 'never'}"
    for line in config.describe():
        yield f"engine: {in_settings_words(line)}"


class _Server(uvicorn.Server):
    """Reports when it is ready and when it stops; a second signal aborts running requests, a third exits at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_ready: Callable[[], None],
        abort: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._abort = abort
        self._on_end = on_end
        self._grace_s = config.timeout_graceful_shutdown or 0
        self._num_signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1", "STATUS=waiting for running requests")
        logger.info("stopping; running requests get %g s, another signal aborts them", self._grace_s)
        aborting = asyncio.create_task(self._abort_if_told())
        try:
            await super().shutdown(sockets)
        finally:
            aborting.cancel()
            self._on_end()  # here, since uvicorn then ends the process with the signal it got

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._num_signals += 1
        self._captured_signals.append(sig)
        self.should_exit = True
        self.force_exit = self._num_signals > 2

    async def _abort_if_told(self) -> None:
        while self._num_signals < 2:
            await asyncio.sleep(0.1)
        logger.info("a second signal: running requests are aborted")
        await asyncio.to_thread(self._abort)
        await asyncio.sleep(ABORT_S)
        self.force_exit = True  # a client that does not read would keep the process alive


def run_until_signal(backend: Backend, settings: Settings, sockets: list[socket.socket], began: float) -> bool:
    """Serve until a signal or the engine's death; return True for the latter."""
    died = False

    def on_death() -> None:
        nonlocal died
        died = True
        server.should_exit = True

    def on_ready() -> None:
        notify("READY=1", "STATUS=serving")
        logger.info(
            "ready after %.1f s: Uvicorn running on %s (page: /, API: /v1, its description: /openapi.json, "
            "counts: /metrics)",
            time.monotonic() - began,
            address_of(sockets, settings),
        )

    async def show_life() -> None:
        if backend.alive and backend.silent_s < settings.stuck_after_s:
            notify("WATCHDOG=1")

    app = create_app(backend, settings, on_death)
    config = http_config(app, settings, callback_notify=show_life, timeout_notify=WATCHDOG_S)
    server = _Server(config, on_ready=on_ready, abort=backend.abort, on_end=lambda: _leave(sockets, settings))
    listen(sockets)
    server.run(sockets)
    return died


def _check_layout(settings: Settings, layout: str) -> None:
    for name, wanted in (("load_format", settings.load_format), ("config_format", settings.config_format)):
        other_files = (wanted, layout) == ("safetensors", "gguf")
        if other_files or (wanted in ("mistral", "hf", "gguf") and wanted != layout):
            raise UsageError(f"{name} is {wanted}, and {settings.model} has the layout {layout}; leave it out.")


def _leave(sockets: Sequence[socket.socket], settings: Settings) -> None:
    for each in sockets:
        each.close()
    if settings.uds is not None:
        settings.uds.unlink(missing_ok=True)
