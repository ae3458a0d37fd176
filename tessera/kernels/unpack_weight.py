"""Columns of a packed weight, for gradients: one pass over its codes, where torch takes a dozen.

In bfloat16 the kernel (native/unpack_weight.h) gives the bits of `packed_weight.dequantize`, transposed, because a
product with the transpose is the faster one (211 beside 180 GFLOP/s, PyTorch's bfloat16 on a Zen 4 core). Or the
columns are packed again as rows, in 8 bits, for the integer kernels, which take 325 GFLOP/s.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.packed_linear import has_whole_parts, packed_fields
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight


def unpack_columns(weight: PackedWeight, start: int, stop: int) -> Tensor | None:
    """Return columns `start` to `stop`, multiples of 32, as (columns, N) in bfloat16.

    None if the kernel is missing, or the codes are of 3 bits.
    """
    function = kernel("unpack_weight", ADDRESS, WHOLE, WHOLE, ADDRESS, WHOLE, WHOLE)
    if function is None or not _reads(weight):
        return None
    first, last = _groups(weight, start, stop)
    out = torch.empty((last - first) * GROUP_COLUMNS, len(weight.codes) * TILE_ROWS, dtype=torch.bfloat16)
    threads = min(torch.get_num_threads(), last - first)
    fields = packed_fields(weight)
    function(ctypes.addressof(fields), first, last - first, out.data_ptr(), out.stride(0), threads)
    return out[:, : weight.shape[0]]


def turn_columns(weight: PackedWeight, start: int, stop: int) -> PackedWeight | None:
    """Return columns `start` to `stop`, multiples of 32, as a packed weight (columns, N) of 8 bits.

    Each column has a scale for 32 rows: no value is off by more than half a step of their largest / 127. None if the
    kernel is missing, the codes are of 3 bits, or the rows are no multiple of 32.
    """
    function = kernel("turn_weight", ADDRESS, WHOLE, WHOLE, ADDRESS, ADDRESS, WHOLE)
    if function is None or not _reads(weight) or weight.shape[0] % GROUP_COLUMNS:
        return None
    first, last = _groups(weight, start, stop)
    shape = ((last - first) * GROUP_COLUMNS, weight.shape[0])
    cells = (shape[0] // TILE_ROWS, shape[1] // GROUP_COLUMNS)
    codes = torch.empty(*cells, 8 * 64, dtype=torch.uint8)
    scales = torch.empty(*cells, TILE_ROWS, dtype=torch.float16)
    threads = min(torch.get_num_threads(), last - first)
    fields = packed_fields(weight)
    function(ctypes.addressof(fields), first, last - first, codes.data_ptr(), scales.data_ptr(), threads)
    return PackedWeight(8, shape, codes, scales)


def _reads(weight: PackedWeight) -> bool:
    return weight.device.type == "cpu" and weight.bits in (4, 8) and has_whole_parts(weight)


def _groups(weight: PackedWeight, start: int, stop: int) -> tuple[int, int]:
    first, last = start // GROUP_COLUMNS, min(stop, weight.shape[1]) // GROUP_COLUMNS
    if not 0 <= first < last:
        raise ValueError(f"columns {start} to {stop} are not in a weight of {weight.shape[1]} columns")
    return first, last
