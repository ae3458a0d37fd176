"""transformers with our weights, and random models in memory, for comparisons on one device.

Widths are Pixtral 12B's; layers are few, so that two models fit in memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tessera.errors import MissingExtraError
from tessera.kernels.packed_weight import GROUP_COLUMNS, SUPER_GROUPS, TILE_ROWS, PackedWeight, packs
from tessera.model.config import ModelConfig
from tessera.model.family import PIXTRAL_12B
from tessera.model.pixtral import Pixtral
from tessera.weights.fill import empty_model
from tessera.weights.hf import write_config
from tessera.weights.hf_names import permuted_heads, to_hf_name, to_hf_rows

WIDTHS = dataclasses.replace(
    PIXTRAL_12B,
    n_layers=2,
    vision_encoder=dataclasses.replace(PIXTRAL_12B.vision_encoder, num_hidden_layers=4),
)


def random_model(config: ModelConfig, device: str = "cpu") -> Pixtral:
    """Make a bfloat16 model with random weights, small enough that nothing overflows."""
    model = empty_model(config).to_empty(device=device).to(torch.bfloat16)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if "norm" in name or "ln_pre" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=0.02, generator=generator)
    return model.eval()


def random_packed(rows: int, columns: int, bits: int, device: torch.device | str = "cpu") -> PackedWeight:
    """Random codes in the layout itself, whose values are as large as a matrix of this width needs."""
    assert packs(rows, columns)
    tiles, groups = -(-rows // TILE_ROWS), columns // GROUP_COLUMNS
    codes = torch.randint(0, 256, (tiles, groups, 64 * bits), dtype=torch.uint8, device=device)
    span = 32 if bits == 3 else 1 << bits  # of codes, or of the levels of 3 bits
    scale = columns**-0.5 * 3.5 / span  # uniform codes spread over 0.29 of their range
    scales = torch.full((tiles, groups, TILE_ROWS), scale, dtype=torch.float16, device=device)
    if bits != 3 or groups % SUPER_GROUPS:
        return PackedWeight(bits, (rows, columns), codes, scales)
    ones = torch.ones_like(scales, dtype=torch.uint8)
    return PackedWeight(bits, (rows, columns), codes, ones, super_scales=scales[:, ::SUPER_GROUPS].contiguous())


def peer_of(model: Pixtral) -> Any:
    """Build the same model in transformers; raises MissingExtraError if it is not installed."""
    try:
        from transformers import LlavaConfig, LlavaForConditionalGeneration
    except ImportError as error:
        raise MissingExtraError("the peer is transformers: pip install 'tessera[dev]'") from error
    settings = write_config(model.config, torch.bfloat16)
    with torch.device("meta"):
        peer = LlavaForConditionalGeneration(LlavaConfig.from_dict(settings))
    state = {}
    for name, parameter in model.named_parameters():
        heads = permuted_heads(name, model.config)
        state[_newer_name(to_hf_name(name))] = parameter if heads is None else to_hf_rows(parameter, heads)
    peer.load_state_dict(state, assign=True, strict=False)
    # Rotary tables are buffers that no checkpoint holds: rebuilt on the real device.
    fresh = LlavaForConditionalGeneration._from_config(LlavaConfig.from_dict(_one_layer(settings)))
    buffers = dict(fresh.named_buffers())
    for name, _ in list(peer.named_buffers()):
        owner_name, _, buffer_name = name.rpartition(".")
        peer.get_submodule(owner_name).register_buffer(buffer_name, buffers[name].to(model.device), persistent=False)
    return peer.eval()


def _one_layer(settings: dict[str, Any]) -> dict[str, Any]:
    small = {"num_hidden_layers": 1, "intermediate_size": 8}
    return settings | {
        "text_config": settings["text_config"] | small | {"vocab_size": 16},
        "vision_config": settings["vision_config"] | small,
    }


def _newer_name(name: str) -> str:
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "lm_head.weight" if name == "language_model.lm_head.weight" else "model." + name
