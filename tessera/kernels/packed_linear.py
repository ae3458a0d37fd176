"""Products with packed weights: which kernel computes them, and the plain-torch twins.

Two twins, for two meanings. `linear_twin` keeps the inputs as they are; it serves every machine, and
training. `linear_int8_twin` rounds each token's groups of 32 inputs to 8 bits first, as the integer
kernels do (and llama.cpp): it is their oracle. A token with an input that is no finite number has
outputs that are none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.packed_weight import GROUP_COLUMNS, PackedWeight, dequantize, group_values, unpack_codes

# Rows of the weight that the twin dequantizes at a time: what it needs beside inputs and outputs.
PANEL_TILES = 64

# By the numbers of native/packed_linear.h.
KERNEL_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
KERNEL_ARGUMENTS = (*[ADDRESS] * 2, *[WHOLE] * 3, *[ADDRESS] * 5, *[WHOLE] * 4)


def packed_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """inputs (T, K) times the weight's transpose: (T, N) in the inputs' dtype."""
    function = kernel("packed_linear", *KERNEL_ARGUMENTS) if _kernel_takes(inputs_TK, weight) else None
    if function is None:
        return linear_twin(inputs_TK, weight)
    inputs_TK = inputs_TK if inputs_TK.stride(1) == 1 else inputs_TK.contiguous()
    tokens, (rows, columns) = len(inputs_TK), weight.shape
    out_TN = inputs_TK.new_empty(tokens, rows)
    failed = function(
        out_TN.data_ptr(),
        inputs_TK.data_ptr(),
        KERNEL_DTYPES[inputs_TK.dtype],
        tokens,
        inputs_TK.stride(0),
        weight.codes.data_ptr(),
        weight.scales.data_ptr(),
        _address(weight.minimums),
        _address(weight.super_scales),
        _address(weight.super_minimums),
        weight.bits,
        rows,
        columns,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the 8-bit inputs of {tokens} tokens of {columns} columns; use smaller chunks")
    return out_TN


def _kernel_takes(inputs_TK: Tensor, weight: PackedWeight) -> bool:
    """Kernels compute on the CPU and know no gradients."""
    if torch.is_grad_enabled() and inputs_TK.requires_grad:
        return False
    return inputs_TK.is_cpu and weight.codes.is_cpu and inputs_TK.dtype in KERNEL_DTYPES


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


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
    # A group so small that the inverse is no finite number counts as zero.
    inverse = torch.where(scales_TG >= torch.finfo(torch.float32).tiny, 1 / scales_TG, 0)
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
