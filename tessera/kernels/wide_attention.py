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

from tessera.kernels.attention_call import FIELDS, attend_by_heads
from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, REAL, WHOLE, kernel

SHORTEST_TOKENS = 512  # with 256 it is as fast as PyTorch, with 1,024 1.4 times (BENCHMARKS.md)

# As in native/wide_attention_avx2.cpp.
QUERIES, KEYS, MAX_WIDTH, WIDTH_STEP = 96, 128, 128, 8
STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Call(ctypes.Structure):
    """`AttentionCall` of native/wide_attention_avx2.cpp."""

    _fields_ = (*FIELDS, ("stored", WHOLE), ("scale", REAL))


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
    width = queries_TNK.shape[-1]
    return attend_by_heads(
        function, _Call, (queries_TNK, keys_LNK, values_LNK), STORED[queries_TNK.dtype], width**-0.5 / math.log(2),
        packed_bytes=4 * 2 * -(-len(keys_LNK) // KEYS) * KEYS * width, panel=QUERIES,
    )  # fmt: skip
