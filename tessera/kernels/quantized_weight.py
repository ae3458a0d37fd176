"""A matrix in few bits, in whichever of the two forms: packed codes, or 8-bit floats.

Both have `scheme`, `shape`, `nbytes`, `device`, `tensors` and `to`, so that whoever stores, moves, cuts,
places or multiplies a weight need not ask which it is.
"""

from __future__ import annotations

from torch import Tensor

from tessera.kernels.fp8_linear import Fp8Weight, dequantize_fp8, fp8_linear
from tessera.kernels.packed_linear import packed_linear
from tessera.kernels.packed_weight import PackedWeight, dequantize

QuantizedWeight = PackedWeight | Fp8Weight


def quantized_linear(inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
    """inputs (T, K) times the weight's transpose: (T, N) in the inputs' dtype."""
    if isinstance(weight, Fp8Weight):
        return fp8_linear(inputs_TK, weight)
    return packed_linear(inputs_TK, weight)


def values_of(weight: QuantizedWeight) -> Tensor:
    """The matrix (N, K) that a quantized weight stands for, in float32."""
    return dequantize_fp8(weight) if isinstance(weight, Fp8Weight) else dequantize(weight)
