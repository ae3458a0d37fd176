"""Products with packed weights: which kernel computes them, and the plain-torch twins.

Two twins, for two meanings. `linear_twin` keeps the inputs as they are; it serves every machine.
`linear_int8_twin` rounds each token's groups of 32 inputs to 8 bits first, as the integer kernels
do (and llama.cpp): it is their oracle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.kernels import cuda
from tessera.kernels.packed_weight import GROUP_COLUMNS, PackedWeight, dequantize, group_values, unpack_codes

# Rows of the weight that the twin dequantizes at a time: what it needs beside inputs and outputs.
PANEL_TILES = 64


def packed_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """inputs (T, K) times the weight's transpose: (T, N) in the inputs' dtype."""
    if cuda.serves(inputs_TK):
        from tessera.kernels import triton_packed_linear

        return triton_packed_linear.packed_linear(inputs_TK, weight)
    return linear_twin(inputs_TK, weight)


def linear_twin(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """The product with the dequantized weight, a panel of rows at a time, in the inputs' dtype."""
    panels = []
    for start in range(0, len(weight.codes), PANEL_TILES):
        panel = weight.tiles(start, min(start + PANEL_TILES, len(weight.codes)))
        panels.append(inputs_TK @ dequantize(panel, inputs_TK.dtype).T)
    return torch.cat(panels, dim=-1)


def quantize_inputs(inputs_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's groups of 32 in 8 bits: int8 (T, G, 32) and float32 scales (T, G); value = scale * code."""
    groups = inputs_TK.float().unflatten(-1, (-1, GROUP_COLUMNS))
    scales_TG = groups.abs().amax(-1) / 127
    inverse = torch.where(scales_TG > 0, 1 / scales_TG, 0)
    return (groups * inverse[..., None]).round().to(torch.int8), scales_TG


def linear_int8_twin(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """The product of 8-bit inputs and codes in whole numbers, group by group, summed in float32: (T, N) float32."""
    inputs, input_scales_TG = quantize_inputs(inputs_TK)
    scales_NG, offsets_NG = group_values(weight)
    codes = unpack_codes(weight).unflatten(-1, (-1, GROUP_COLUMNS))
    # float64 holds these whole numbers exactly, and torch multiplies them fast.
    products = torch.einsum("tgk,ngk->tng", inputs.double(), codes.double())
    sums = inputs.double().sum(-1)
    terms = products * scales_NG[None].double() + sums[:, None] * offsets_NG[None].double()
    return (terms * input_scales_TG[:, None].double()).sum(-1).float()
