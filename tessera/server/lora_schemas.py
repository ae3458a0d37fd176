"""Schemas of the routes that load and unload adapters, vLLM's; every field with its bounds, as in `schemas`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tessera.server.schemas import Name, Request

AdapterName = Annotated[str, Field(min_length=1, max_length=100)]


class LoadAdapterRequest(Request):
    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False
    base_model_name: Name | None = None


class UnloadAdapterRequest(Request):
    lora_name: AdapterName
