"""The official layout: params.json, consolidated*.safetensors, tekken.json. Names stay unchanged.

Ministral 3's FP8 checkpoints add to a matrix `X.weight` the scales `X.qscale_weight` and `X.qscale_act`, each a single
number. Source: the keys and names that transformers' and vLLM's readers of this layout know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig, trained_context
from tessera.weights.checkpoint import Checkpoint, checkpoint_of_folder
from tessera.weights.detect import read_json, weight_files
from tessera.weights.fill import bare_name, check_sources, linear_shapes
from tessera.weights.published import open_float, stored_linear
from tessera.weights.safetensors import StoredTensor, stored_tensors
from tessera.weights.source import EMBEDDINGS, HEAD, Source, StoredLinear

SCALE, INPUT_SCALE = "qscale_weight", "qscale_act"
# The values of params.json's quantization: 8-bit floats, with or without a scale of the inputs.
QUANTIZATION = {"qformat_weight": ("fp8_e4m3",), "qscheme_act": ("TENSOR", "NO_SCALES")}


def open(folder: Path) -> Checkpoint:
    """Open the model in a folder; raises CheckpointError."""
    config = read_config(folder)
    tensors = {bare_name(name): tensor for name, tensor in stored_tensors(weight_files(folder, "mistral")).items()}
    linears = _take_linears(tensors, config) if _is_fp8(folder) else {}
    if config.tied_embeddings:
        _tie(tensors, folder)
    sources = {name: Source(tensor) for name, tensor in tensors.items()}
    checked = check_sources(sources, config, folder, {f"{name}.weight" for name in linears})
    return checkpoint_of_folder(folder, "mistral", config, checked, linears)


def read_config(folder: Path) -> ModelConfig:
    """Read the model's config from params.json; raises CheckpointError."""
    file = folder / "params.json"
    params = read_json(file)
    _check_quantization(params.pop("quantization", None), file)
    # The context limit may have the Hugging Face name.
    limit = params.pop("max_position_embeddings", None)
    if isinstance(limit, int):
        params.setdefault("max_seq_len", limit)
    return trained_context(ModelConfig.from_params(params, str(file)))


def _take_linears(tensors: dict[str, StoredTensor], config: ModelConfig) -> dict[str, StoredLinear]:
    """Take the matrices in 8 bits and all scales out of `tensors`; inputs are scaled token by token here."""
    for name in [name for name in tensors if name.endswith(f".{INPUT_SCALE}")]:
        del tensors[name]
    linears = {}
    for name, shape in linear_shapes(config).items():
        parts = {suffix: tensors.get(f"{name}.{suffix}") for suffix in ("weight", SCALE)}
        found = {suffix: tensor for suffix, tensor in parts.items() if tensor is not None}
        if len(found) == len(parts):
            linears[name] = stored_linear(name, open_float(found, shape, name, scale=SCALE), shape, found)
            for suffix in found:
                del tensors[f"{name}.{suffix}"]
    return linears


def _is_fp8(folder: Path) -> bool:
    return bool(read_json(folder / "params.json").get("quantization"))


def _check_quantization(given: Any, file: Path) -> None:
    """Refuse any quantization but that of Ministral 3."""
    if not given:
        return
    known = isinstance(given, Mapping) and "qformat_weight" in given and set(given) <= set(QUANTIZATION)
    if not known or any(given[key] not in QUANTIZATION[key] for key in given):
        raise CheckpointError(
            f"{file}: quantization is {given!r}, and only qformat_weight 'fp8_e4m3' with qscheme_act 'TENSOR' or "
            "'NO_SCALES' is read; use such a checkpoint, or the unquantized one."
        )


def _tie(tensors: dict[str, StoredTensor], folder: Path) -> None:
    """Add the head's name for the embeddings' matrix."""
    if HEAD in tensors:
        raise CheckpointError(
            f"{tensors[HEAD].file} holds {HEAD!r}, and {folder / 'params.json'} says tied_embeddings, which is a model "
            "without it; the side files and the weights belong to different models: use those of one model."
        )
    if EMBEDDINGS in tensors:
        tensors[HEAD] = tensors[EMBEDDINGS]
