"""The official layout: params.json, consolidated*.safetensors, tekken.json. Names are as they are."""

from __future__ import annotations

from pathlib import Path

from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig
from tessera.weights.detect import read_json, weight_files
from tessera.weights.stream import Source, bare_name, check_sources, stored_tensors


def read_config(folder: Path) -> ModelConfig:
    """The model's config from params.json; raises CheckpointError."""
    file = folder / "params.json"
    params = read_json(file)
    # The context limit may stand there under the Hugging Face name.
    limit = params.pop("max_position_embeddings", None)
    if isinstance(limit, int):
        params.setdefault("max_seq_len", min(limit, MAX_CONTEXT_TOKENS))
    return ModelConfig.from_params(params, str(file))


def official_sources(folder: Path, config: ModelConfig) -> dict[str, Source]:
    """Where each of the model's tensors comes from, from the headers only; raises CheckpointError."""
    stored = stored_tensors(weight_files(folder, "mistral"))
    return check_sources({bare_name(name): Source(tensor) for name, tensor in stored.items()}, config, folder)
