"""Attention in bfloat16 on CPUs: panels of queries whose scores never leave a core's caches.

The kernel (native/prefill_attention.h, after FlashAttention, arXiv 2205.14135) multiplies with AMX or
AVX512-BF16, keeps scores in float32, and gives bit-identical results for a query whatever other
queries are computed with it and however its prompt was chunked. Without the library, processors with
AVX512-BF16 compute panels in torch, whose plain products use those instructions better than its fused kernel.
The twin of both is `torch.nn.functional.scaled_dot_product_attention`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, REAL, WHOLE, kernel

SHORTEST_TOKENS = 512  # below this the fused kernel's smaller overhead beats the panels in torch
QUERY_ROWS = 512  # taken at a time in torch: their scores (512 x 4096, 4 MB) stay near the cores

# As in native/prefill_attention.h.
QUERIES, KEYS, MAX_WIDTH = 96, 256, 256
# Heads are packed and attended a few at a time: all 16 of 4096 patches would be 16 MB, whose pages the system clears
# anew in each layer, which takes as long as packing them.
PACKED_BYTES_PER_THREAD = 2**21
ARGUMENTS = (ADDRESS, WHOLE, WHOLE) * 4 + (ADDRESS, *(WHOLE,) * 6, REAL, WHOLE)


@cache
def _torch_is_faster() -> bool:
    # AMX speeds the fused kernel up as well; without AVX512-BF16 bfloat16 products are emulated.
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def prefers_prefill_attention(queries_TNK: Tensor, *context: Tensor) -> bool:
    """Return True if `prefill_attention` is faster for these queries, keys and values on this machine."""
    if not queries_TNK.is_cpu or queries_TNK.dtype != torch.bfloat16 or records(queries_TNK, *context):
        return False
    if has_prefill_kernel(queries_TNK):
        return len(queries_TNK) >= QUERIES
    return len(queries_TNK) >= SHORTEST_TOKENS and _torch_is_faster()


def has_prefill_kernel(queries_TNK: Tensor) -> bool:
    """Return True if `prefill_attention` computes these queries with the C++ kernel, not in torch."""
    width = queries_TNK.shape[-1]
    fits = queries_TNK.dtype == torch.bfloat16 and queries_TNK.is_cpu and width <= MAX_WIDTH and width % 2 == 0
    return fits and kernel("prefill_attention", *ARGUMENTS) is not None


def prefill_attention(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> Tensor:
    """Compute scaled dot-product attention of one sequence, (T, N, K); N/M query heads share a key/value head.

    Query t of T sees all L keys, or with `causal` the first L - T + t + 1 of them.
    """
    if not has_prefill_kernel(queries_TNK):
        return prefill_attention_torch(queries_TNK, keys_LMK, values_LMK, causal=causal)
    context, kv_heads, width = keys_LMK.shape
    group = queries_TNK.shape[1] // kv_heads
    queries_TNK, keys_LMK, values_LMK = (_dense_rows(x) for x in (queries_TNK, keys_LMK, values_LMK))
    out_TNK = torch.empty(queries_TNK.shape, dtype=queries_TNK.dtype)
    # Keys and values of a head, padded to whole blocks: numbers of two bytes.
    numbers = 2 * -(-context // KEYS) * KEYS * (-(-width // 32) * 32)
    heads_each = min(kv_heads, max(1, PACKED_BYTES_PER_THREAD * torch.get_num_threads() // (2 * numbers)))
    packed = torch.empty(heads_each * numbers, dtype=torch.bfloat16)
    for start in range(0, kv_heads, heads_each):
        stop = min(start + heads_each, kv_heads)
        _attend(
            queries_TNK[:, start * group : stop * group],
            keys_LMK[:, start:stop],
            values_LMK[:, start:stop],
            out_TNK[:, start * group : stop * group],
            packed,
            causal,
        )
    return out_TNK


def prefill_attention_torch(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> Tensor:
    """Compute the same with torch's products; scores are rounded to bfloat16 before the softmax."""
    tokens, heads, width = queries_TNK.shape
    context, group = len(keys_LMK), heads // keys_LMK.shape[1]
    queries_NTK = (queries_TNK * width**-0.5).transpose(0, 1).contiguous()
    keys_MLK, values_MLK = keys_LMK.transpose(0, 1).contiguous(), values_LMK.transpose(0, 1).contiguous()
    out_TNK = torch.empty_like(queries_TNK)
    for head in range(heads):
        keys_LK, values_LK = keys_MLK[head // group], values_MLK[head // group]
        for start in range(0, tokens, QUERY_ROWS):
            stop = min(start + QUERY_ROWS, tokens)
            seen = context - tokens + stop if causal else context
            scores = queries_NTK[head, start:stop] @ keys_LK[:seen].T
            if causal:
                # Only the last stop - start columns lie partly in the future of this panel's rows.
                scores[:, seen - (stop - start) :] += _future(stop - start, scores)
            out_TNK[start:stop, head] = scores.softmax(dim=-1) @ values_LK[:seen]
    return out_TNK


def _attend(
    queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, out_TNK: Tensor, packed: Tensor, causal: bool
) -> None:
    function = kernel("prefill_attention", *ARGUMENTS)
    assert function is not None  # checked by the caller
    (tokens, heads, width), (context, kv_heads, _) = queries_TNK.shape, keys_LMK.shape
    places = [
        number for x in (queries_TNK, keys_LMK, values_LMK, out_TNK) for number in (x.data_ptr(), *x.stride()[:2])
    ]
    panels = heads * -(-tokens // QUERIES)
    threads = min(torch.get_num_threads(), panels)
    function(
        *places, packed.data_ptr(), tokens, context, heads, kv_heads, width, int(causal), width**-0.5, threads
    )  # fmt: skip


def _dense_rows(x_LMK: Tensor) -> Tensor:
    return x_LMK if x_LMK.stride(-1) == 1 else x_LMK.contiguous()


def _future(rows: int, like: Tensor) -> Tensor:
    return torch.full((rows, rows), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)
