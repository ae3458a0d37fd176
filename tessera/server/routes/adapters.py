"""/v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM defines them: adapters while the server runs.

Off unless the operator names the folder that adapters may lie in. Each is read by one thread at a time.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response

from tessera.errors import CheckpointError, UsageError
from tessera.lora.files import link_out_of
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers
from tessera.server.lora_schemas import LoadAdapterRequest, UnloadAdapterRequest

logger = logging.getLogger(__name__)


def add(app: FastAPI, handlers: Handlers) -> None:
    backend, names = handlers.backend, handlers.names

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadAdapterRequest) -> Response:
        folder = _folder(handlers)
        body.check_extra_fields()
        if body.base_model_name is not None and names.adapter(body.base_model_name) is not None:
            raise BadRequestError("base_model_name must be the model's own name.", param="base_model_name")
        loaded = await backend.call(_load, handlers, folder, body)
        logger.info("adapter %s: %s", body.lora_name, loaded)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadAdapterRequest) -> Response:
        _folder(handlers)
        body.check_extra_fields()
        backend.adapters.unload(body.lora_name)
        logger.info("adapter %s: unloaded", body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _folder(handlers: Handlers) -> Path:
    """Return the folder of adapters; raises BadRequestError if loading is off."""
    folder = handlers.settings.allowed_lora_path
    if folder is None:
        raise BadRequestError(
            "adapters cannot be loaded while this server runs; start it with --enable-lora and --allowed-lora-path "
            "FOLDER, or name them in --lora-modules.",
            code="lora_updating_off", status=403,
        )  # fmt: skip
    return folder


def _load(handlers: Handlers, folder: Path, body: LoadAdapterRequest) -> str:
    """Load an adapter below the folder; links must stay within it. Returns its summary; raises BadRequestError."""
    top = folder.resolve()
    try:
        path = (top / body.lora_path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        path = None
    if path is None or not path.is_relative_to(top):
        raise BadRequestError(
            "lora_path names no adapter below the folder that this server allows (allowed_lora_path).",
            param="lora_path", code="adapter_not_found", status=404,
        )  # fmt: skip
    if (link := link_out_of(top, path)) is not None:
        raise BadRequestError(
            f"{link.relative_to(top)} is a link out of the folder that this server allows (allowed_lora_path); put "
            "the file itself there.",
            param="lora_path", code="adapter_link",
        )  # fmt: skip
    try:
        adapters = handlers.backend.adapters
        loaded = adapters.load(body.lora_name, path, replaces=body.load_inplace, taken=handlers.names.own)
    except (UsageError, CheckpointError) as error:
        text = str(error).replace(f"{top}/", "").replace(str(top), ".")  # where it lies is the operator's
        raise BadRequestError(text, param=error.param if isinstance(error, UsageError) else "lora_path") from error
    return loaded.summary
