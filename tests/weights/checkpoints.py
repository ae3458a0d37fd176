"""Tiny model folders in either layout, written with the safetensors library, not with our writer."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.model.config import ModelConfig, QueryScaling, VisionConfig, YarnConfig
from tessera.prompt import packaged_tokenizer_path
from tessera.weights.fill import empty_model

RANKS = 280  # of the tokenizer: the 256 bytes and a few words
VOCAB = 1000 + RANKS
VISION = VisionConfig(
    hidden_size=64,
    image_size=64,
    patch_size=16,
    rope_theta=10_000.0,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
)
LLAVA = ModelConfig(
    dim=64,
    n_layers=2,
    head_dim=24,  # dim differs from heads x head_dim, as in Pixtral 12B
    hidden_dim=96,
    n_heads=4,
    n_kv_heads=2,
    rope_theta=1e9,
    norm_eps=1e-5,
    vocab_size=VOCAB,
    vision_encoder=VISION,
    max_seq_len=4096,
)
MERGED = dataclasses.replace(
    LLAVA,
    vision_encoder=dataclasses.replace(
        VISION,
        patch_size=8,
        adapter_bias=False,
        spatial_merge_size=2,
        add_pre_mm_projector_layer_norm=True,
        mm_projector_id="patch_merge",
    ),
)
TIED = dataclasses.replace(
    MERGED,
    tied_embeddings=True,
    yarn=YarnConfig(factor=256.0, original_max_position_embeddings=16, beta=2.0, alpha=0.25),
    llama_4_scaling=QueryScaling(original_max_position_embeddings=16, beta=0.1),
)
CONFIGS = {"llava": LLAVA, "mistral3": MERGED, "ministral3": TIED}
SEGMENTS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def tensors_of(config: ModelConfig, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> dict[str, Tensor]:
    """Random values for every tensor of a model, by official name."""
    shapes = {name: tensor.shape for name, tensor in empty_model(config).named_parameters()}
    if config.tied_embeddings:
        del shapes["output.weight"]
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=generator) * 0.08).to(dtype) for name, shape in shapes.items()}


@functools.cache
def _cut_tokenizer() -> str:
    tekken = json.loads(packaged_tokenizer_path().read_text())
    tekken["vocab"] = tekken["vocab"][:RANKS]
    tekken["config"] |= {"num_vocab_tokens": RANKS, "default_vocab_size": VOCAB}
    return json.dumps(tekken)


def write_tokenizer(file: Path) -> None:
    """Pixtral's own tokenizer file, cut to RANKS ranks."""
    file.write_text(_cut_tokenizer())


def write_mistral_folder(
    folder: Path, config: ModelConfig = LLAVA, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """A folder in the official layout; returns its tensors."""
    folder.mkdir(parents=True)
    tensors = tensors_of(config, dtype)
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(config.to_params()))
    write_tokenizer(folder / "tekken.json")
    return tensors


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; "a.b" stands for a key within a section, None removes it."""
    content = json.loads(file.read_text())
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = content
        for section in sections:
            place = place[section]
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    file.write_text(json.dumps(content))


def edit_tensors(file: Path, **changes: Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a safetensors file."""
    tensors: dict[str, Tensor | None] = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, {"format": "pt"})


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in dtype, shape and every bit; NaNs of one pattern are equal, 0.0 and -0.0 are not."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.contiguous().view(SEGMENTS[one.dtype]), other.contiguous().view(SEGMENTS[one.dtype]))
