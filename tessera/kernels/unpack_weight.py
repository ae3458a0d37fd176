"""Columns of a packed weight in bfloat16, for gradients: one pass over its codes, where torch takes a dozen.

The kernel (native/unpack_weight.h) gives the bits of `packed_weight.dequantize`, transposed, because a product with
the transpose is the faster one (211 beside 180 GFLOP/s, PyTorch's bfloat16 on a Zen 4 core).
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
    if weight.device.type != "cpu" or weight.bits not in (4, 8) or not has_whole_parts(weight):
        return None
    function = kernel("unpack_weight", ADDRESS, WHOLE, WHOLE, ADDRESS, WHOLE, WHOLE)
    if function is None:
        return None
    first, last = start // GROUP_COLUMNS, min(stop, weight.shape[1]) // GROUP_COLUMNS
    if not 0 <= first < last:
        raise ValueError(f"columns {start} to {stop} are not in a weight of {weight.shape[1]} columns")
    out = torch.empty((last - first) * GROUP_COLUMNS, len(weight.codes) * TILE_ROWS, dtype=torch.bfloat16)
    threads = min(torch.get_num_threads(), last - first)
    fields = packed_fields(weight)
    function(ctypes.addressof(fields), first, last - first, out.data_ptr(), out.stride(0), threads)
    return out[:, : weight.shape[0]]
