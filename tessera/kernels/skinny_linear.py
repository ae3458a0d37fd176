"""Products of few tokens with a plain bfloat16 weight, as in decoding: one read of the weight, and little more.

The twin is PyTorch's product, which reads 12 to 19 GB/s where a plain sum reads 27 (two Zen 4 cores, 16 tokens and
one); it serves everything else. A token's result is bit-identical whatever other tokens are in the call.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tessera.kernels import wide_linear
from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, WHOLE, kernel

MOST_TOKENS = 16  # with more, arithmetic is the limit, and PyTorch's blocking is faster
LEAST_WEIGHTS = 2**19  # a megabyte; smaller products are done before a kernel is called


class _Call(ctypes.Structure):
    """`SkinnyCall` of native/skinny_call.h."""

    _fields_ = (
        *((name, ADDRESS) for name in ("out", "inputs", "weight")),
        *((name, WHOLE) for name in ("tokens", "input_stride", "rows", "columns", "threads")),
    )


def linear(inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Multiply inputs (..., K) by the weight's transpose and add the bias: (..., N)."""
    function = kernel("skinny_linear", ADDRESS, WHOLE) if _is_skinny(inputs, weight_NK, bias_N) else None
    if function is None:
        return wide_linear.linear(inputs, weight_NK, bias_N)
    inputs_TK = inputs.reshape(-1, inputs.shape[-1])
    inputs_TK = inputs_TK if inputs_TK.stride(1) == 1 else inputs_TK.contiguous()
    tokens, (rows, columns) = len(inputs_TK), weight_NK.shape
    out_TN = inputs_TK.new_empty(tokens, rows)
    call = _Call(
        out_TN.data_ptr(), inputs_TK.data_ptr(), weight_NK.data_ptr(),
        tokens, inputs_TK.stride(0), rows, columns, torch.get_num_threads(),
    )  # fmt: skip
    function(ctypes.byref(call), 1)
    out = out_TN.view(*inputs.shape[:-1], rows)
    return out if bias_N is None else out + bias_N


def _is_skinny(inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> bool:
    """Return True if the kernel serves these: few tokens, a large contiguous weight, no gradients, all that fits."""
    if not (inputs.dtype == torch.bfloat16 and inputs.is_cpu and serves_weight(weight_NK)):
        return False
    if records(inputs, weight_NK):
        return False
    if bias_N is not None and (bias_N.dtype != inputs.dtype or bias_N.shape != weight_NK.shape[:1]):
        return False
    tokens = inputs.numel() // max(inputs.shape[-1], 1)
    return inputs.shape[-1] == weight_NK.shape[1] and 0 < tokens <= MOST_TOKENS


def serves_weight(weight_NK: Tensor) -> bool:
    """Return True if the kernel serves this weight: on the CPU, in bfloat16, a matrix, large and contiguous."""
    plain = weight_NK.dtype == torch.bfloat16 and weight_NK.is_cpu and weight_NK.is_contiguous()
    return plain and weight_NK.dim() == 2 and weight_NK.numel() >= LEAST_WEIGHTS
