"""Products of adapters with few tokens, as in decoding: one call for all adapters beside a linear.

Two products of PyTorch's for each adapter cost 25 to 75 microseconds each on a Zen 4 core, far more than reading
their matrices. The twin is those products; a token's result has the same bits whatever other tokens are in the call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.skinny_linear import MOST_TOKENS
from tessera.kernels.wide_linear import linear


class Part(NamedTuple):
    """An adapter's matrices beside a linear, and the rows that are its own."""

    a_RK: Tensor
    b_NR: Tensor  # the kernel wants it `laid_out`
    scale: float
    first: int
    last: int


def laid_out(b_NR: Tensor) -> Tensor:
    """Return B as the kernel reads it in order, transposed in memory; what the kernel never serves stays as it is."""
    return b_NR.t().contiguous().t() if b_NR.is_cpu and b_NR.dtype == torch.bfloat16 else b_NR


class _Part(ctypes.Structure):
    """`LowRankPart` of native/low_rank.h."""

    _fields_ = (
        *((name, ADDRESS) for name in ("a", "b", "low")),
        *((name, WHOLE) for name in ("rank", "first", "tokens")),
        ("scale", ctypes.c_double),
    )


class _Call(ctypes.Structure):
    """`LowRankCall` of native/low_rank.h."""

    _fields_ = (
        *((name, ADDRESS) for name in ("out", "inputs")),
        *((name, WHOLE) for name in ("out_stride", "input_stride", "outputs", "columns")),
        ("parts", ADDRESS),
        *((name, WHOLE) for name in ("count", "threads")),
    )


def add_low_rank(out_TN: Tensor, inputs_TK: Tensor, parts: Sequence[Part]) -> None:
    """Add `scale` * B(A inputs) to the rows of each part, in place."""
    function = kernel("low_rank", ADDRESS) if _serves(out_TN, inputs_TK, parts) else None
    if function is None:
        for part in parts:
            low_TR = linear(inputs_TK[part.first : part.last], part.a_RK)
            out_TN[part.first : part.last].add_(linear(low_TR, part.b_NR), alpha=part.scale)
        return
    low = out_TN.new_empty(sum((part.last - part.first) * len(part.a_RK) for part in parts))
    given, at = (_Part * len(parts))(), low.data_ptr()
    for number, (a_RK, b_NR, scale, first, last) in enumerate(parts):
        given[number] = _Part(a_RK.data_ptr(), b_NR.data_ptr(), at, len(a_RK), first, last - first, scale)
        at += (last - first) * len(a_RK) * low.itemsize
    call = _Call(
        out_TN.data_ptr(), inputs_TK.data_ptr(), out_TN.stride(0), inputs_TK.stride(0), out_TN.shape[1],
        inputs_TK.shape[1], ctypes.addressof(given), len(parts), torch.get_num_threads(),
    )  # fmt: skip
    function(ctypes.byref(call))


def _serves(out_TN: Tensor, inputs_TK: Tensor, parts: Sequence[Part]) -> bool:
    """Return True if the kernel serves these: bfloat16 rows on the CPU, few for each adapter, no gradients."""
    if not (out_TN.is_cpu and inputs_TK.is_cpu and out_TN.dtype == inputs_TK.dtype == torch.bfloat16):
        return False
    if not (out_TN.ndim == inputs_TK.ndim == 2 and out_TN.stride(1) == inputs_TK.stride(1) == 1):
        return False
    if len(out_TN) != len(inputs_TK) or records(out_TN, inputs_TK):
        return False
    return all(_fits(part, out_TN.shape[1], inputs_TK.shape[1], len(out_TN)) for part in parts)


def _fits(part: Part, outputs: int, columns: int, rows: int) -> bool:
    return (
        0 <= part.first < part.last <= rows
        and part.last - part.first <= MOST_TOKENS
        and fits_kernel(part.a_RK, part.b_NR, outputs, columns)
    )


def fits_kernel(a_RK: Tensor, b_NR: Tensor, outputs: int, columns: int) -> bool:
    """Return True if the kernel reads these matrices beside a linear (outputs, columns)."""
    rank = len(a_RK)
    return (a_RK.shape, b_NR.shape) == ((rank, columns), (outputs, rank)) and all(
        each.is_contiguous() and each.dtype == torch.bfloat16 and each.is_cpu for each in (a_RK, b_NR.t())
    )
