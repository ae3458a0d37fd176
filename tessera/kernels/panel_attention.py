"""Attention in bfloat16 on CPUs without AMX: one head and one panel of queries at a time.

PyTorch's fused CPU attention reaches 150 GFLOP/s in bfloat16 on such a processor (two Zen 4 cores,
4096 patches, 16 heads of 64), its plain matrix products 390. A panel of 512 query rows keeps its
scores (512 x 4096, 4 MB) near the cores between the two products, and takes 0.25 s a layer instead
of 0.43. Scores are rounded to bfloat16 before the softmax: relative error 0.0045 instead of 0.0023.
The twin is `torch.nn.functional.scaled_dot_product_attention`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

PANEL_ROWS = 512
SHORTEST_TOKENS = 512  # below this the fused kernel's smaller overhead wins


@cache
def _cpu_prefers_panels() -> bool:
    # AMX speeds the fused kernel up as well; without AVX512-BF16 bfloat16 products are emulated.
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def prefers_panels(queries_TNK: Tensor) -> bool:
    """Whether `panel_attention` is the faster one for these queries on this machine."""
    return (
        queries_TNK.device.type == "cpu"
        and queries_TNK.dtype == torch.bfloat16
        and len(queries_TNK) >= SHORTEST_TOKENS
        and not torch.is_grad_enabled()
        and _cpu_prefers_panels()
    )


def panel_attention(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> Tensor:
    """Scaled dot-product attention of one sequence, (T, N, K).

    Query t of T sees all L keys, or with `causal` the first L - T + t + 1 of them.
    """
    tokens, heads, width = queries_TNK.shape
    context, group = len(keys_LMK), heads // keys_LMK.shape[1]
    queries_NTK = (queries_TNK * width**-0.5).transpose(0, 1).contiguous()
    keys_MLK, values_MLK = keys_LMK.transpose(0, 1).contiguous(), values_LMK.transpose(0, 1).contiguous()
    out_TNK = torch.empty_like(queries_TNK)
    for head in range(heads):
        keys_LK, values_LK = keys_MLK[head // group], values_MLK[head // group]
        for start in range(0, tokens, PANEL_ROWS):
            stop = min(start + PANEL_ROWS, tokens)
            seen = context - tokens + stop if causal else context
            scores = queries_NTK[head, start:stop] @ keys_LK[:seen].T
            if causal:
                # Only the last stop - start columns lie partly in the future of this panel's rows.
                scores[:, seen - (stop - start) :] += _future(stop - start, scores)
            out_TNK[start:stop, head] = scores.softmax(dim=-1) @ values_LK[:seen]
    return out_TNK


def _future(rows: int, like: Tensor) -> Tensor:
    return torch.full((rows, rows), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)
