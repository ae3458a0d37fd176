"""Products with packed weights: the choice of kernel, and the plain-torch twins.

There are two twins. `linear_twin` keeps the inputs as they are; it serves every machine, and training,
where `quantized_weight` adds a gradient. `linear_int8_twin` first rounds each token's groups of 32
inputs to 8 bits, as the integer kernels (and llama.cpp) do: it is their oracle. A token with a
non-finite input has non-finite outputs.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tessera.kernels import cuda
from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.packed_weight import GROUP_COLUMNS, PackedWeight, dequantize, group_values, unpack_levels
from tessera.kernels.prefill_linear import prefill_linear
from tessera.kernels.wide_linear import linear

# Rows of the weight that the twin dequantizes at a time: its only extra memory.
PANEL_TILES = 64

# Numbered as in native/packed_call.h.
KERNEL_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Rows(ctypes.Structure):
    """Rows of native/packed_call.h, with the stride in elements."""

    _fields_ = (("start", ADDRESS), ("dtype", WHOLE), ("tokens", WHOLE), ("stride", WHOLE))


class PackedFields(ctypes.Structure):
    """Weight of native/packed_weight.h."""

    _fields_ = (
        *[(name, ADDRESS) for name in ("codes", "scales", "minimums", "super_scales", "super_minimums")],
        *[(name, WHOLE) for name in ("bits", "rows", "columns")],
    )


class _Call(ctypes.Structure):
    """`PackedCall` of native/packed_call.h."""

    _fields_ = (("out", _Rows), ("inputs", _Rows), ("weight", PackedFields), ("threads", WHOLE))


def packed_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply inputs (T, K) by the weight's transpose: (T, N) in the inputs' dtype."""
    if inputs_TK.shape[1] != weight.shape[1]:
        raise ValueError(f"inputs of {inputs_TK.shape[1]} columns do not fit a weight of {weight.shape[1]} columns")
    if cuda.serves(inputs_TK) and has_whole_parts(weight) and weight.bits != 3:
        from tessera.kernels import triton_packed_linear

        return triton_packed_linear.packed_linear(inputs_TK, weight)
    out_TN = _kernel_linear(inputs_TK, weight) if _kernels_take(inputs_TK, weight) else None
    return linear_twin(inputs_TK, weight) if out_TN is None else out_TN


def _kernels_take(inputs_TK: Tensor, weight: PackedWeight) -> bool:
    """Return True if the C++ kernels may compute this: on the CPU, without gradients."""
    if records(inputs_TK):
        return False
    if not (inputs_TK.is_cpu and weight.codes.is_cpu and inputs_TK.dtype in KERNEL_DTYPES):
        return False
    return has_whole_parts(weight)


def _kernel_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor | None:
    panels_TN = prefill_linear(inputs_TK, weight)
    if panels_TN is not None:
        return panels_TN
    function = kernel("packed_linear", ADDRESS, WHOLE)
    if function is None:
        return None
    inputs_TK = inputs_TK if inputs_TK.stride(1) == 1 else inputs_TK.contiguous()
    out_TN = inputs_TK.new_empty(len(inputs_TK), weight.shape[0])
    call = _Call(_rows(out_TN), _rows(inputs_TK), packed_fields(weight), torch.get_num_threads())
    if function(ctypes.byref(call), 1):
        tokens, columns = inputs_TK.shape
        raise MemoryError(f"no memory for the 8-bit inputs of {tokens} tokens of {columns} columns; use smaller chunks")
    return out_TN


def has_whole_parts(weight: PackedWeight) -> bool:
    """Return True if the parts lie as kernels read them: a view that skips groups does not."""
    return all(tensor is None or tensor.is_contiguous() for tensor in _parts(weight))


def _parts(weight: PackedWeight) -> tuple[Tensor | None, ...]:
    return weight.codes, weight.scales, weight.minimums, weight.super_scales, weight.super_minimums


def _rows(values: Tensor) -> _Rows:
    return _Rows(values.data_ptr(), KERNEL_DTYPES[values.dtype], values.shape[0], values.stride(0))


def packed_fields(weight: PackedWeight) -> PackedFields:
    """Return the weight as kernels take it; its tensors must outlive the result."""
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in _parts(weight)]
    return PackedFields(*addresses, weight.bits, *weight.shape)


def linear_twin(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply by the dequantized weight, a panel of rows at a time, in the inputs' dtype."""
    panels = []
    for start in range(0, len(weight.codes), PANEL_TILES):
        panel = weight.tiles(start, min(start + PANEL_TILES, len(weight.codes)))
        panels.append(linear(inputs_TK, dequantize(panel, inputs_TK.dtype)))
    return torch.cat(panels, dim=-1)


def quantize_inputs(inputs_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Round each token's groups of 32 to 8 bits: int8 (T, G, 32) and float32 scales (T, G); value = scale * code."""
    groups = inputs_TK.float().unflatten(-1, (-1, GROUP_COLUMNS))
    scales_TG = groups.abs().amax(-1) / 127
    # A group so small that its inverse is not finite counts as zero.
    inverse = torch.where(scales_TG >= torch.finfo(torch.float32).tiny, 1 / scales_TG, 0)
    return (groups * inverse[..., None]).round().to(torch.int8), scales_TG


def linear_int8_twin(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply 8-bit inputs and codes as integers, group by group, summed in float32: (T, N) float32."""
    inputs, input_scales_TG = quantize_inputs(inputs_TK)
    scales_NG, offsets_NG = group_values(weight)
    levels = unpack_levels(weight).unflatten(-1, (-1, GROUP_COLUMNS))
    # float64 holds these integers exactly, and torch multiplies them fast.
    products = torch.einsum("tgk,ngk->tng", inputs.double(), levels.double())
    sums = inputs.double().sum(-1)
    terms = products * scales_NG[None].double() + sums[:, None] * offsets_NG[None].double()
    return (terms * input_scales_TG[:, None].double()).sum(-1).float()
