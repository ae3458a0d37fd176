"""The official layout: params.json, consolidated*.safetensors, tekken.json. Names are as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tessera.model.config import ModelConfig
from tessera.weights.detect import read_json, weight_files
from tessera.weights.stream import StoredTensor, stored_tensors


def read_config(folder: Path) -> ModelConfig:
    """The model's config from params.json; raises CheckpointError."""
    return ModelConfig.from_params(read_json(folder / "params.json"))


def official_tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[str, StoredTensor, Tensor]]:
    """Each tensor under its official name, read when it is asked for."""
    for name, stored in stored_tensors(weight_files(folder, "mistral")).items():
        yield name, stored, stored.read()
