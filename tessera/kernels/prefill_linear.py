"""Products of many tokens with a packed weight, for prefill on processors with AMX, in bfloat16.

The kernel (native/prefill_linear.h) unpacks a panel of the weight into a core's cache, in the bits that
`dequantize` returns, and multiplies up to 512 tokens by it. Inputs stay in bfloat16, unlike in
the integer kernels. Integer tiles would not be faster: a group of 32 columns fills half of one, so
a step of 8-bit tiles multiplies no more than one of bfloat16, and scales cost extra. On
processors without AMX the integer kernels are faster: 330 GFLOP/s on a Zen 4 core, where these
loops over AVX512-BF16 products did 200. The twin is `packed_linear.linear_twin`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.packed_weight import PackedWeight

# Below this, unpacking the weight takes longer than the integer kernels' products (estimated from their rates).
SHORTEST_TOKENS = 32
ARGUMENTS = (*[ADDRESS] * 2, *[WHOLE] * 2, *[ADDRESS] * 5, *[WHOLE] * 4)


def multiplies_bfloat16() -> bool:
    """Return True if this processor multiplies many tokens faster in bfloat16 than in whole numbers."""
    return _function() is not None


def prefill_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor | None:
    """Multiply bfloat16 inputs (T, K) by the weight's transpose, (T, N); returns None if the kernel does not apply."""
    if inputs_TK.dtype != torch.bfloat16 or len(inputs_TK) < SHORTEST_TOKENS:
        return None
    function = _function()
    if function is None:
        return None
    inputs_TK = inputs_TK if inputs_TK.stride(1) == 1 else inputs_TK.contiguous()
    tokens, (rows, columns) = len(inputs_TK), weight.shape
    out_TN = inputs_TK.new_empty(tokens, rows)
    optional = (weight.minimums, weight.super_scales, weight.super_minimums)
    failed = function(
        out_TN.data_ptr(),
        inputs_TK.data_ptr(),
        tokens,
        inputs_TK.stride(0),
        weight.codes.data_ptr(),
        weight.scales.data_ptr(),
        *(None if tensor is None else tensor.data_ptr() for tensor in optional),
        weight.bits,
        rows,
        columns,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for a copy of {tokens} tokens of {columns} columns; use smaller chunks")
    return out_TN


def _function() -> Callable[..., int] | None:
    return kernel("prefill_linear", *ARGUMENTS)
