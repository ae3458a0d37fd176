"""The quantized types, one row of tables each, and their product, which passes gradients to the inputs.

Weights of every type have `scheme`, `shape`, `nbytes`, `device`, `tensors`, `units`, `to`, `clone`, `rows` and
`columns`, so that code that stores, moves, shards, places or multiplies a weight need not know its type. The weight
is frozen: only the inputs have a gradient, for which it is dequantized or packed again, a panel at a time. Autograd
would otherwise keep every dequantized panel, the whole matrix in 16 bits (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tessera.kernels.fp8_linear import FP8, Fp8Weight, dequantize_fp8, fp8_linear, fp8_linear_twin
from tessera.kernels.gradients import records
from tessera.kernels.packed_linear import linear_twin, packed_linear
from tessera.kernels.packed_weight import GROUP_COLUMNS, SUPER_GROUPS, TILE_ROWS, PackedWeight, dequantize, packs
from tessera.kernels.prefill_linear import multiplies_bfloat16
from tessera.kernels.unpack_weight import turn_columns, unpack_columns
from tessera.kernels.wide_linear import linear

QuantizedWeight = PackedWeight | Fp8Weight
Shape = tuple[int, int]
Fields = dict[str, tuple[torch.dtype, tuple[int, ...]]]

PANEL_COLUMNS = 1024  # dequantized at a time for a gradient; a multiple of eight groups
TURNED_COLUMNS = 2048  # packed again at a time, in half as many bytes


@dataclass(frozen=True)
class Computing:
    """The functions of a type: the product, its plain PyTorch twin, and the dequantized matrix in a dtype."""

    product: Callable[[Tensor, Any], Tensor]
    twin: Callable[[Tensor, Any], Tensor]
    values: Callable[[Any, torch.dtype], Tensor]


@dataclass(frozen=True)
class Storage:
    """How our files store a matrix of some shape: the tensors' dtypes and shapes, and the weight made of them."""

    holds: Callable[[Shape], bool]
    fields: Callable[[Shape], Fields]
    weight: Callable[[Shape, Mapping[str, Tensor]], QuantizedWeight]


def _packed_fields(bits: int, shape: Shape) -> Fields:
    tiles, groups = -(-shape[0] // TILE_ROWS), shape[1] // GROUP_COLUMNS
    fields: Fields = {
        "codes": (torch.uint8, (tiles, groups, 64 * bits)),
        "scales": (torch.float16, (tiles, groups, TILE_ROWS)),
    }
    if bits == 3 and groups % SUPER_GROUPS == 0:
        fields["scales"] = torch.uint8, (tiles, groups, TILE_ROWS)
        fields["super_scales"] = torch.float16, (tiles, groups // SUPER_GROUPS, TILE_ROWS)
    return fields


def _packed(bits: int) -> Storage:
    return Storage(
        holds=lambda shape: packs(*shape),
        fields=partial(_packed_fields, bits),
        weight=lambda shape, fields: PackedWeight(bits, shape, **fields),
    )


COMPUTING: dict[type, Computing] = {
    PackedWeight: Computing(packed_linear, linear_twin, dequantize),
    Fp8Weight: Computing(fp8_linear, fp8_linear_twin, dequantize_fp8),
}
STORAGE = {
    "int3": _packed(3),
    "int4": _packed(4),
    "int8": _packed(8),
    "fp8": Storage(
        holds=lambda shape: True,
        fields=lambda shape: {"values": (FP8, shape), "scales": (torch.float32, shape[:1])},
        weight=lambda shape, fields: Fp8Weight(**fields),
    ),
}


def quantized_linear(inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
    """Multiply inputs (T, K) by the weight's transpose: (T, N) in the inputs' dtype."""
    if records(inputs_TK):
        product_TN: Tensor = _Product.apply(inputs_TK, weight)  # type: ignore[no-untyped-call]
        return product_TN
    return COMPUTING[type(weight)].product(inputs_TK, weight)


def values_of(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the dequantized matrix (N, K), computed in float32."""
    return COMPUTING[type(weight)].values(weight, dtype)


def training_product(inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
    """Multiply as while a model is trained: packed weights on a CPU in bfloat16 as it will answer, others by the twin.

    The CPU's kernels round groups of 32 inputs to 8 bits, an error of the size of bfloat16's own. In float32 the twin
    keeps the inputs as they are.
    """
    functions = COMPUTING[type(weight)]
    as_served = isinstance(weight, PackedWeight) and inputs_TK.is_cpu and inputs_TK.dtype == torch.bfloat16
    return (functions.product if as_served else functions.twin)(inputs_TK, weight)


def gradient_to_inputs(gradient_TN: Tensor, weight: QuantizedWeight) -> Tensor:
    """Return the gradient of the inputs (T, K): the outputs' times the dequantized weight.

    Where the product takes the CPU's integer kernels, so does this: the outputs' gradient and the weight are rounded
    to 8 bits in groups of 32 rows.
    """
    turned = _turned_product(gradient_TN, weight)
    if turned is not None:
        return turned
    # Panels of columns, so that each number of the result is one product, rounded once.
    panels = _column_panels(weight, gradient_TN.dtype)
    return torch.cat([linear(gradient_TN, panel_NK.T) for panel_NK in panels], dim=-1)


class _Product(torch.autograd.Function):
    """The product with its gradient; it saves no tensor but the weight itself."""

    @staticmethod
    def forward(ctx: Any, inputs_TK: Tensor, weight: QuantizedWeight) -> Tensor:
        ctx.weight = weight
        return training_product(inputs_TK, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TN: Tensor) -> tuple[Tensor, None]:
        return gradient_to_inputs(gradient_TN, ctx.weight), None


def _turned_product(gradient_TN: Tensor, weight: QuantizedWeight) -> Tensor | None:
    """Multiply by the weight, its columns packed again as rows, some at a time; None if the kernels do not."""
    if not isinstance(weight, PackedWeight) or gradient_TN.dtype != torch.bfloat16:
        return None
    if not gradient_TN.is_cpu or multiplies_bfloat16():
        return None
    panels_TK = []
    for start in range(0, weight.shape[1], TURNED_COLUMNS):
        turned = turn_columns(weight, start, min(start + TURNED_COLUMNS, weight.shape[1]))
        if turned is None:
            return None
        panels_TK.append(packed_linear(gradient_TN, turned))
    return torch.cat(panels_TK, dim=-1)


def _column_panels(weight: QuantizedWeight, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the dequantized matrix, some columns at a time: (N, columns)."""
    columns = weight.shape[1]
    for start in range(0, columns, PANEL_COLUMNS):
        stop = min(start + PANEL_COLUMNS, columns)
        unpacked = None
        if isinstance(weight, PackedWeight) and dtype == torch.bfloat16:
            unpacked = unpack_columns(weight, start, stop)
        yield values_of(weight.columns(start, stop), dtype) if unpacked is None else unpacked.t()
