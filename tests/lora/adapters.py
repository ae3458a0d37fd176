"""Random adapters, and peft's folders as peft 0.21 writes them, made with the safetensors library."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.model.config import ModelConfig
from tessera.weights.fill import linear_shapes

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def random_adapter(
    config: ModelConfig, keep: Callable[[str], bool] = lambda name: True, *, scale: float = 2.0, rank: int = 4
) -> LoraAdapter:
    """An adapter of the linears whose official name `keep` accepts, all but the head."""
    generator = torch.Generator().manual_seed(7)
    modules = {
        name: LowRank(
            torch.randn(rank, columns, generator=generator) * 0.1,
            torch.randn(rows, rank, generator=generator) * 0.1,
            scale,
        )
        for name, (rows, columns) in linear_shapes(config).items()
        if keep(name) and name != "output"
    }
    return LoraAdapter.of(modules, config, "random")


def live_paths(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The linears of transformers' LlavaForConditionalGeneration by path, with rows and columns."""
    vision, shapes = config.vision_encoder, dict[str, tuple[int, int]]()
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    for layer in range(config.n_layers):
        here = f"model.language_model.layers.{layer}"
        sizes = (queries, config.dim), (keys, config.dim), (keys, config.dim), (config.dim, queries)
        shapes |= {f"{here}.self_attn.{name}": size for name, size in zip(ATTENTION, sizes, strict=True)}
        shapes |= {f"{here}.mlp.{name}": (config.hidden_dim, config.dim) for name in FEED_FORWARD[:2]}
        shapes[f"{here}.mlp.down_proj"] = config.dim, config.hidden_dim
    width, inner = vision.hidden_size, vision.intermediate_size
    for layer in range(vision.num_hidden_layers):
        here = f"model.vision_tower.transformer.layers.{layer}"
        shapes |= {f"{here}.attention.{name}": (width, width) for name in ATTENTION}
        shapes |= {f"{here}.feed_forward.{name}": (inner, width) for name in FEED_FORWARD[:2]}
        shapes[f"{here}.feed_forward.down_proj"] = width, inner
    shapes["model.multi_modal_projector.linear_1"] = config.dim, width
    shapes["model.multi_modal_projector.linear_2"] = config.dim, config.dim
    return shapes


def random_pairs(
    shapes: Mapping[str, tuple[int, int]], rank: int | Callable[[str], int] = 4
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by path."""
    generator = torch.Generator().manual_seed(3)

    def pair(path: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        wide = rank if isinstance(rank, int) else rank(path)
        return tuple(torch.randn(*size, generator=generator) * 0.1 for size in ((wide, columns), (rows, wide)))  # type: ignore[return-value]

    return {path: pair(path, *shape) for path, shape in shapes.items()}


def write_peft_folder(
    folder: Path,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    rename: Callable[[str], str] = lambda path: path,
    **settings: Any,
) -> Path:
    """A folder as peft's `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    tensors = {}
    for path, (a_RK, b_NR) in pairs.items():
        tensors[f"base_model.model.{rename(path)}.lora_A.weight"] = a_RK
        tensors[f"base_model.model.{rename(path)}.lora_B.weight"] = b_NR
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
