"""Attention of a sequence's newest tokens over its blocks of the cache, in memory that its context does not enlarge.

The twin reads a panel of the context at a time and merges the panels exactly: each keeps its rows' largest score, the
sum of their weights and the weighted values, rescaled when a larger score comes (online softmax, arXiv 1805.02867;
over blocks of keys, FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.kernels.cache_layer import CacheLayer

PANEL_TOKENS = 4096  # of context: 16 MiB of keys and values at Pixtral's heads in bfloat16
PANEL_ROWS = 512  # of queries: their scores against a panel, 4 MB in bfloat16, stay near the cores


def paged_attention_twin(queries_TNK: Tensor, cache: CacheLayer, blocks: Tensor, context: int) -> Tensor:
    """Causal attention (T, N, K) of the last T of the `context` tokens that lie in `blocks`, in order."""
    tokens, heads, width = queries_TNK.shape
    kv_heads = cache.keys_BSMK.shape[2]
    group, size, device = heads // kv_heads, cache.block_tokens, queries_TNK.device
    # The query heads that share a key/value head stand as rows of one product: nothing is expanded.
    queries_MRK = (queries_TNK * width**-0.5).unflatten(1, (kv_heads, group)).transpose(0, 1).flatten(1, 2)
    positions_R = torch.arange(context - tokens, context, device=device).repeat_interleave(group)
    merged = [[_Merged(rows_RK) for rows_RK in head_RK.split(PANEL_ROWS)] for head_RK in queries_MRK]
    for start in range(0, context, PANEL_TOKENS):
        stop = min(start + PANEL_TOKENS, context)
        slots = cache.slots(blocks[start // size : -(-stop // size)], stop - start)
        keys_MPK, values_MPK = (x.transpose(0, 1).contiguous() for x in cache.read(slots, queries_TNK.dtype))
        positions_P = torch.arange(start, stop, device=device)
        for head in range(kv_heads):
            for rows, positions in zip(merged[head], positions_R.split(PANEL_ROWS), strict=True):
                future = None if stop <= context - tokens else positions_P > positions[:, None]
                rows.add(keys_MPK[head], values_MPK[head], future)
    out_MRK = torch.stack([torch.cat([rows.result() for rows in head]) for head in merged])
    out_TNK: Tensor = out_MRK.unflatten(1, (tokens, group)).transpose(0, 1).flatten(1, 2)
    return out_TNK


class _Merged:
    """What some rows of queries have seen so far; the first panel must hold a key that each row sees."""

    def __init__(self, queries_RK: Tensor) -> None:
        self.queries_RK = queries_RK
        self.highest_R1 = torch.full_like(queries_RK[:, :1], -torch.inf)
        self.total_R1 = torch.zeros_like(self.highest_R1, dtype=torch.float32)
        self.sum_RK = torch.zeros_like(queries_RK, dtype=torch.float32)

    def add(self, keys_PK: Tensor, values_PK: Tensor, future_RP: Tensor | None) -> None:
        scores_RP = self.queries_RK @ keys_PK.T
        if future_RP is not None:
            scores_RP.masked_fill_(future_RP, -torch.inf)
        highest_R1 = torch.maximum(self.highest_R1, scores_RP.amax(-1, keepdim=True))
        shrink_R1 = (self.highest_R1.float() - highest_R1.float()).exp_()
        weights_RP = scores_RP.sub_(highest_R1).exp_()
        self.total_R1 = self.total_R1 * shrink_R1 + weights_RP.sum(-1, keepdim=True, dtype=torch.float32)
        self.sum_RK = self.sum_RK.mul_(shrink_R1).add_(weights_RP @ values_PK)
        self.highest_R1 = highest_R1

    def result(self) -> Tensor:
        out_RK: Tensor = self.sum_RK / self.total_R1
        return out_RK.to(self.queries_RK.dtype)
