"""Model summaries: architecture and requirements, from headers and side files before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import max_image_tokens
from tessera.load import model_name
from tessera.model.family import family_name
from tessera.weights.checkpoint import Checkpoint, open_checkpoint
from tessera.weights.detect import Layout, read_json


@dataclass(frozen=True)
class ModelSummary:
    """A folder's contents and requirements, from its headers and side files only."""

    name: str
    family: str
    layout: Layout
    folder: str
    tokenizer: str
    dtype: str
    parameters: int
    decoder_parameters: int
    vision_parameters: int
    adapter_parameters: int
    quantized: dict[str, int]  # linears by the scheme that holds them; dtype is that of the other tensors
    tensors: int
    stored_bytes: int
    weight_bytes: int  # in memory
    max_seq_len: int
    largest_image_tokens: int
    kv_bytes_per_token: int
    kv_bytes_per_token_int8: int  # with kv_cache_dtype int8
    kv_bytes_per_megapixel_image: int  # of one 1024x1024 image
    notes: tuple[str, ...]


def describe(folder: Path, mmproj: Path | None = None) -> ModelSummary:
    """Summarize a model without reading its weights; raises CheckpointError if it is incomplete."""
    checkpoint = open_checkpoint(folder, mmproj)
    config, sources, linears = checkpoint.config, checkpoint.sources, checkpoint.linears
    dtype, vision = checkpoint.dtype, config.vision_encoder
    parts: Counter[str] = Counter()
    for name, source in sources.items():
        parts[_part(name)] += source.stored.num_parameters
    for name, linear in linears.items():
        parts[_part(name)] += linear.shape[0] * linear.shape[1]
    if config.tied_embeddings:  # the head is the embeddings, even where it is stored again, in fewer bits
        parts["decoder"] -= config.dim * config.vocab_size
    kv_bytes, kv_bytes_int8 = (kv_bytes_per_token(config, stored) for stored in (dtype, torch.int8))
    rows = -(-min(1024, vision.image_size) // vision.token_size)
    return ModelSummary(
        name=model_name(folder),
        family=family_name(config),
        layout=checkpoint.layout,
        folder=str(folder),
        tokenizer=_describe_tokenizer(checkpoint),
        dtype=str(dtype).removeprefix("torch."),
        parameters=parts.total(),
        decoder_parameters=parts["decoder"],
        vision_parameters=parts["vision"],
        adapter_parameters=parts["adapter"],
        quantized=dict(Counter(linear.scheme for linear in linears.values())),
        tensors=len(sources) + len(linears),
        stored_bytes=checkpoint.stored_bytes,
        weight_bytes=checkpoint.weight_bytes(dtype),
        max_seq_len=config.max_seq_len,
        largest_image_tokens=max_image_tokens(vision),
        kv_bytes_per_token=kv_bytes,
        kv_bytes_per_token_int8=kv_bytes_int8,
        kv_bytes_per_megapixel_image=rows * (rows + 1) * kv_bytes,
        notes=checkpoint.notes(),
    )


def _part(name: str) -> str:
    if name.startswith("vision_encoder."):
        return "vision"
    return "adapter" if name.startswith(("vision_language_adapter.", "pre_mm_", "patch_merger.")) else "decoder"


def _describe_tokenizer(checkpoint: Checkpoint) -> str:
    file = checkpoint.tokenizer_file
    if file.suffix != ".json":
        return f"{file.name}, version {file.suffix[1:]}"
    settings = read_json(file).get("config")
    version = settings.get("version") if isinstance(settings, dict) else None
    origin = "" if file.parent == checkpoint.folder else ", packaged, because the folder has none"
    return f"{file.name}, version {version}{origin}"
