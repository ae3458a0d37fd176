"""Attention in float32 on CPUs whose widest instructions are AVX2's, for encoders of whole pictures.

The kernel (native/wide_attention_avx2.cpp, after FlashAttention, arXiv 2205.14135) takes inputs of 16 or 32 bits,
multiplies and sums in float32, and rounds once, at the end; its weights are off by 1.2e-7 of themselves at most. A
query's result has the same bits whatever other queries and threads there are. Beside its output it needs the keys and
values of one head in float32, or of as many as fit 2 MiB for each thread, and 109 KiB of each thread's stack. The twin,
which serves everything else and all training, is `torch.nn.functional.scaled_dot_product_attention`.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, REAL, WHOLE, kernel
from tessera.kernels.prefill_attention import PACKED_BYTES_PER_THREAD

SHORTEST_TOKENS = 512  # with 256 it is as fast as PyTorch, with 1,024 1.4 times (BENCHMARKS.md)

# As in native/wide_attention_avx2.cpp.
QUERIES, KEYS, MAX_WIDTH, WIDTH_STEP = 96, 128, 128, 8
STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Rows(ctypes.Structure):
    """`Rows` of native/wide_attention_avx2.cpp."""

    _fields_ = (("start", ADDRESS), ("token_stride", WHOLE), ("head_stride", WHOLE))


class _Call(ctypes.Structure):
    """`AttentionCall` of native/wide_attention_avx2.cpp."""

    _fields_ = (
        *[(name, _Rows) for name in ("queries", "keys", "values", "out")],
        *[(name, WHOLE) for name in ("tokens", "context", "heads", "width")],
        ("packed", ADDRESS),
        *[(name, WHOLE) for name in ("threads", "stored")],
        ("scale", REAL),
    )


def prefers_wide_attention(queries_TNK: Tensor, keys_LNK: Tensor, values_LNK: Tensor) -> bool:
    """Return True if the kernel takes these on this machine and is faster than PyTorch.

    That is where PyTorch has AVX2 and no more, with enough queries, as many heads of queries as of keys, of a width
    that is a multiple of 8 up to 128, and no gradients.
    """
    given, width = (queries_TNK, keys_LNK, values_LNK), queries_TNK.shape[-1]
    return (
        all(x.is_cpu and x.dtype == queries_TNK.dtype for x in given)
        and queries_TNK.dtype in STORED
        and len(queries_TNK) >= SHORTEST_TOKENS
        and len(keys_LNK) > 0
        and queries_TNK.shape[1:] == keys_LNK.shape[1:]
        and keys_LNK.shape == values_LNK.shape
        and width % WIDTH_STEP == 0
        and 0 < width <= MAX_WIDTH
        and not records(*given)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and kernel("wide_attention", ADDRESS) is not None
    )


def wide_attention(queries_TNK: Tensor, keys_LNK: Tensor, values_LNK: Tensor) -> Tensor:
    """Compute scaled dot-product attention of all queries to all keys, (T, N, K), of what the rule above takes."""
    function = kernel("wide_attention", ADDRESS)
    if function is None:
        raise RuntimeError("wide_attention has no kernel on this machine; ask prefers_wide_attention first")
    (tokens, heads, width), context = queries_TNK.shape, len(keys_LNK)
    given = [x if x.stride(-1) == 1 else x.contiguous() for x in (queries_TNK, keys_LNK, values_LNK)]
    out_TNK = torch.empty(tokens, heads, width, dtype=queries_TNK.dtype)
    numbers = 2 * -(-context // KEYS) * KEYS * width  # keys and values of a head
    heads_each = min(heads, max(1, PACKED_BYTES_PER_THREAD * torch.get_num_threads() // (4 * numbers)))
    packed = torch.empty(heads_each * numbers)
    for start in range(0, heads, heads_each):
        rows = [_rows(x[:, start : start + heads_each]) for x in (*given, out_TNK)]
        count = min(heads_each, heads - start)
        threads = min(torch.get_num_threads(), count * -(-tokens // QUERIES))
        scale = width**-0.5 / math.log(2)
        call = _Call(
            *rows, tokens, context, count, width, packed.data_ptr(), threads, STORED[queries_TNK.dtype], scale
        )  # fmt: skip
        function(ctypes.byref(call))
    return out_TNK


def _rows(x_TNK: Tensor) -> _Rows:
    return _Rows(x_TNK.data_ptr(), *x_TNK.stride()[:2])
