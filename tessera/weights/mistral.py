"""The official layout: params.json, consolidated*.safetensors, tekken.json. Names stay unchanged."""

from __future__ import annotations

from pathlib import Path

from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig
from tessera.weights.checkpoint import Checkpoint, checkpoint_of_folder
from tessera.weights.detect import read_json, weight_files
from tessera.weights.fill import bare_name, check_sources
from tessera.weights.safetensors import stored_tensors
from tessera.weights.source import Source


def open(folder: Path) -> Checkpoint:
    """Open the model in a folder; raises CheckpointError."""
    config = read_config(folder)
    stored = stored_tensors(weight_files(folder, "mistral"))
    sources = check_sources({bare_name(name): Source(tensor) for name, tensor in stored.items()}, config, folder)
    return checkpoint_of_folder(folder, "mistral", config, sources)


def read_config(folder: Path) -> ModelConfig:
    """Read the model's config from params.json; raises CheckpointError."""
    file = folder / "params.json"
    params = read_json(file)
    # The context limit may have the Hugging Face name.
    limit = params.pop("max_position_embeddings", None)
    if isinstance(limit, int):
        params.setdefault("max_seq_len", min(limit, MAX_CONTEXT_TOKENS))
    return ModelConfig.from_params(params, str(file))
