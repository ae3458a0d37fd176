"""A quantized matrix in either of two forms, and its product, which passes gradients to the inputs.

Packed codes and 8-bit floats both have `scheme`, `shape`, `nbytes`, `device`, `tensors` and `to`, so that
code that stores, moves, shards, places or multiplies a weight need not know its form. The weight is frozen:
only the inputs have a gradient, for which it is dequantized again, a panel at a time. Autograd would
otherwise keep every dequantized panel, the whole matrix in 16 bits (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tessera.kernels.fp8_linear import Fp8Weight, dequantize_fp8, fp8_linear, fp8_linear_twin
from tessera.kernels.gradients import records
from tessera.kernels.packed_linear import linear_twin, packed_linear
from tessera.kernels.packed_weight import GROUP_COLUMNS, PackedWeight, dequantize

QuantizedWeight = PackedWeight | Fp8Weight

PANEL_COLUMNS = 1024  # dequantized at a time for a gradient; a multiple of eight groups


def quantized_linear(inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
    """Multiply inputs (T, K) by the weight's transpose: (T, N) in the inputs' dtype."""
    if records(inputs_TK):
        product_TN: Tensor = _Product.apply(inputs_TK, weight)  # type: ignore[no-untyped-call]
        return product_TN
    if isinstance(weight, Fp8Weight):
        return fp8_linear(inputs_TK, weight)
    return packed_linear(inputs_TK, weight)


def values_of(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the dequantized matrix (N, K), computed in float32."""
    return dequantize_fp8(weight, dtype) if isinstance(weight, Fp8Weight) else dequantize(weight, dtype)


class _Product(torch.autograd.Function):
    """The twins' product, which keeps the inputs as they are; it saves no tensor but the weight itself."""

    @staticmethod
    def forward(ctx: Any, inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
        ctx.weight = weight
        if isinstance(weight, Fp8Weight):
            return fp8_linear_twin(inputs_TK, weight)
        return linear_twin(inputs_TK, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TN: Tensor) -> tuple[Tensor, None]:
        # Panels of columns, so that each number of the result is one product, rounded once.
        parts = [gradient_TN @ values_of(panel, gradient_TN.dtype) for panel in _column_panels(ctx.weight)]
        return torch.cat(parts, dim=-1), None


def _column_panels(weight: QuantizedWeight) -> Iterator[QuantizedWeight]:
    columns = weight.shape[1]
    for start in range(0, columns, PANEL_COLUMNS):
        stop = min(start + PANEL_COLUMNS, columns)
        if isinstance(weight, Fp8Weight):
            yield Fp8Weight(weight.values[:, start:stop], weight.scales)
        else:
            yield weight.groups(start // GROUP_COLUMNS, stop // GROUP_COLUMNS)
