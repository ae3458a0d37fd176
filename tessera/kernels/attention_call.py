"""Calls the C++ attention of whole images: a few heads at a time, with room for their packed keys and values.

`Rows` and the fields of a call are those of native/int8_attention.h and native/wide_attention_avx2.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tessera.kernels.library import ADDRESS, WHOLE
from tessera.kernels.prefill_attention import PACKED_BYTES_PER_THREAD


class Rows(ctypes.Structure):
    """The rows of a sequence and its heads, whose numbers lie side by side."""

    _fields_ = (("start", ADDRESS), ("token_stride", WHOLE), ("head_stride", WHOLE))


# Each kernel's call begins with these.
FIELDS = (
    *[(name, Rows) for name in ("queries", "keys", "values", "out")],
    *[(name, WHOLE) for name in ("tokens", "context", "heads", "width")],
    ("packed", ADDRESS),
    ("threads", WHOLE),
)


def attend_by_heads(
    function: Callable[..., Any], call: type[ctypes.Structure], given: tuple[Tensor, Tensor, Tensor],
    *more: Any, packed_bytes: int, panel: int,
) -> Tensor:  # fmt: skip
    """Compute attention (T, N, K) of queries (T, N, K), keys and values (L, N, K); a call ends with `more`.

    A head's keys and values take `packed_bytes`; a thread takes `panel` queries of a head at a time.
    """
    given = tuple(x if x.stride(-1) == 1 else x.contiguous() for x in given)  # type: ignore[assignment]
    (tokens, heads, width), context = given[0].shape, len(given[1])
    out_TNK = torch.empty(tokens, heads, width, dtype=given[0].dtype)
    heads_each = min(heads, max(1, PACKED_BYTES_PER_THREAD * torch.get_num_threads() // packed_bytes))
    packed = torch.empty(heads_each * packed_bytes, dtype=torch.uint8)
    for start in range(0, heads, heads_each):
        rows = [_rows(x[:, start : start + heads_each]) for x in (*given, out_TNK)]
        count = min(heads_each, heads - start)
        threads = min(torch.get_num_threads(), count * -(-tokens // panel))
        function(ctypes.byref(call(*rows, tokens, context, count, width, packed.data_ptr(), threads, *more)))
    return out_TNK


def _rows(x_TNK: Tensor) -> Rows:
    return Rows(x_TNK.data_ptr(), *x_TNK.stride()[:2])
