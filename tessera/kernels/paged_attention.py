"""Attention of sequences' newest tokens over their cache blocks, in memory independent of the context's length.

For a few new tokens, as in decoding and in checking drafts, the C++ kernel (native/paged_attention.h) reads the blocks
in place, splits each context over the threads and merges the parts. A token's result is bit-identical whether it is
attended alone or with those after it. For many new tokens the prefill kernel takes one or several heads at a time.
The twin takes any number of new tokens and reads a panel of the context at a time. It merges exactly: for each row it
keeps the largest score, the sum of the weights and the weighted values, and rescales them when a larger score
comes (online softmax, arXiv 1805.02867; over blocks of keys, FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import cuda
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.library import ADDRESS, WHOLE, kernel
from tessera.kernels.prefill_attention import (
    QUERY_ROWS,
    has_prefill_kernel,
    prefers_prefill_attention,
    prefill_attention,
)
from tessera.kernels.wide_linear import linear

GATHERED_BYTES = 2**26  # keys and values copied for the prefill kernel at a time; at least one head of any context
CONTEXT_TOKENS = 4096  # of the context, taken at a time: 16 MiB of keys and values at Pixtral's heads in bfloat16

MOST_FEW_TOKENS = 8  # new tokens of one sequence; with more, matrix products are faster
SPLIT_TOKENS = 256  # context of one kernel task; doubled until a sequence has at most MOST_SPLITS tasks
MOST_SPLITS = 32
# As in native/paged_attention.h.
_WIDEST, _WIDTH_STEP, _PAIRED_STEP, _STATE_NUMBERS = 256, 8, 32, 16
_BLOCK_TOKENS = (16, 32)  # whole vectors, at most MAX_BLOCK, and divisors of SPLIT_TOKENS
_STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}


@dataclass(frozen=True, eq=False)
class PagedChunk:
    """New tokens of one sequence: the step's rows `start` to `start + length`.

    They are the last of the `context` tokens in `blocks`, in order.
    """

    start: int
    length: int
    context: int
    blocks: Tensor  # int32

    def cut(self, most: int, block_tokens: int) -> list[PagedChunk]:
        """Split the rows into chunks of at most `most` tokens, each with its own context."""
        parts = []
        for done in range(0, self.length, most):
            length = min(most, self.length - done)
            context = self.context - self.length + done + length
            parts.append(PagedChunk(self.start + done, length, context, self.blocks[: -(-context // block_tokens)]))
        return parts


class AttentionFields(ctypes.Structure):
    """`PagedCall` of native/paged_call.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "out", "keys", "values", "key_scales", "value_scales")),
        *((name, ctypes.c_void_p) for name in ("blocks", "sequences", "partial")),
        *((name, ctypes.c_int64) for name in ("num_sequences", "num_tasks", "heads", "kv_heads", "width")),
        ("block_tokens", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class DecodeRows:
    """A step's chunks of few tokens, in the order of their rows, laid out once and attended in every layer."""

    def __init__(self, chunks: Sequence[PagedChunk], block_tokens: int) -> None:
        chunks = [part for chunk in chunks for part in _alike(chunk, block_tokens)]
        self.rows_R = torch.tensor([row for chunk in chunks for row in range(chunk.start, chunk.start + chunk.length)])
        self._blocks = chunks[0].blocks if len(chunks) == 1 else torch.cat([chunk.blocks for chunk in chunks])
        self._num_tasks = self._num_partial = 0
        table, row, block = [], 0, 0
        for chunk in chunks:
            split = _split_tokens(chunk.context)
            splits = -(-chunk.context // split)
            table.append([row, chunk.length, chunk.context, block, split, self._num_tasks, self._num_partial])
            row, block = row + chunk.length, block + len(chunk.blocks)
            self._num_tasks, self._num_partial = self._num_tasks + splits, self._num_partial + splits * chunk.length
        self._table = torch.tensor(table, dtype=torch.int64)
        self._partial = torch.empty(0)

    def attend(self, queries_TNK: Tensor, cache: CacheLayer) -> Tensor:
        """Compute causal attention (R, N, K) of the rows `rows_R`; `has_kernel(cache)` must be true."""
        function = kernel_for(queries_TNK.dtype, cache)
        if function is None:
            raise RuntimeError("has_kernel was not asked")
        # The rows are in order, so if all are included there is nothing to select.
        picked = queries_TNK if len(queries_TNK) == len(self.rows_R) else queries_TNK[self.rows_R]
        queries_RNK = picked.float().contiguous()
        out_RNK = torch.empty_like(queries_RNK)
        call = self.fields(cache, queries_RNK.shape[1])
        call.queries, call.out = queries_RNK.data_ptr(), out_RNK.data_ptr()
        function(ctypes.byref(call), stored_number(cache), torch.get_num_threads())
        return out_RNK.to(queries_TNK.dtype)

    def fields(self, cache: CacheLayer, heads: int) -> AttentionFields:
        """Return what the kernel takes, but for the queries and the result; its addresses last as long as `self`."""
        kv_heads, width = cache.keys_BSMK.shape[2:]
        if not len(self._partial):
            self._partial = torch.empty(self._num_partial * heads * (width + _STATE_NUMBERS))
        return AttentionFields(
            keys=cache.keys_BSMK.data_ptr(),
            values=cache.values_BSMK.data_ptr(),
            key_scales=None if cache.key_scales_BSM is None else cache.key_scales_BSM.data_ptr(),
            value_scales=None if cache.value_scales_BSM is None else cache.value_scales_BSM.data_ptr(),
            blocks=self._blocks.data_ptr(),
            sequences=self._table.data_ptr(),
            partial=self._partial.data_ptr(),
            num_sequences=len(self._table),
            num_tasks=self._num_tasks,
            heads=heads,
            kv_heads=kv_heads,
            width=width,
            block_tokens=cache.block_tokens,
            scale=math.log2(math.e) * width**-0.5,
        )


def stored_number(cache: CacheLayer) -> int:
    """Return the number by which kernels know what the cache stores."""
    return _STORED[cache.keys_BSMK.dtype]


def kernel_for(dtype: torch.dtype, cache: CacheLayer) -> Callable[..., int] | None:
    """Return the kernel for queries of this dtype: bfloat16 pair products if only the weights lose precision."""
    stored, width = cache.keys_BSMK.dtype, cache.keys_BSMK.shape[-1]
    if dtype == torch.bfloat16 and stored in (torch.bfloat16, torch.int8) and width % _PAIRED_STEP == 0:
        paired = kernel("paged_attention_paired", ADDRESS, WHOLE, WHOLE)
        if paired is not None:
            return paired
    return kernel("paged_attention", ADDRESS, WHOLE, WHOLE)


def has_kernel(cache: CacheLayer) -> bool:
    """Return True if `DecodeRows` may be used: a compiled kernel, and a whole CPU cache of a supported shape."""
    _, block_tokens, _, width = cache.keys_BSMK.shape
    return (
        cache.keys_BSMK.is_cpu
        and cache.keys_BSMK.dtype in _STORED
        and cache.keys_BSMK.is_contiguous()
        and block_tokens in _BLOCK_TOKENS
        and width % _WIDTH_STEP == 0
        and width <= _WIDEST
        and kernel("paged_attention", ADDRESS, WHOLE, WHOLE) is not None
    )


def _alike(chunk: PagedChunk, block_tokens: int) -> list[PagedChunk]:
    """Return the chunk, or its tokens one by one if its first alone would be split differently from its last."""
    first, last = chunk.context - chunk.length + 1, chunk.context
    return [chunk] if _split_tokens(first) == _split_tokens(last) else chunk.cut(1, block_tokens)


def _split_tokens(context: int) -> int:
    split = SPLIT_TOKENS
    while context > split * MOST_SPLITS:
        split *= 2
    return split


def paged_attention(queries_TNK: Tensor, cache: CacheLayer, blocks: Tensor, context: int) -> Tensor:
    """Compute causal attention (T, N, K) of the last T of the `context` tokens in `blocks`: for many tokens."""
    if not (prefers_prefill_attention(queries_TNK) and has_prefill_kernel(queries_TNK)):
        return paged_attention_twin(queries_TNK, cache, blocks, context)
    kv_heads, width = cache.keys_BSMK.shape[2:]
    slots, out_TNK = cache.slots(blocks, context), torch.empty_like(queries_TNK)
    group = queries_TNK.shape[1] // kv_heads
    heads_each = max(1, GATHERED_BYTES // (2 * context * width * queries_TNK.dtype.itemsize))
    for start in range(0, kv_heads, heads_each):
        stop = min(start + heads_each, kv_heads)
        heads = slice(start * group, stop * group)
        keys_CMK, values_CMK = cache.heads(start, stop).read(slots, queries_TNK.dtype)
        out_TNK[:, heads] = prefill_attention(queries_TNK[:, heads], keys_CMK, values_CMK, causal=True)
    return out_TNK


def workspace_bytes(
    step_tokens: int, context: int, few_tokens: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype
) -> int:
    """Return the most bytes that one layer's attention may take, beyond the step's own queries, keys and values.

    `few_tokens` of the step's tokens are attended a few at a time (`DecodeRows`).
    """
    number, panel, room = dtype.itemsize, min(context, CONTEXT_TOKENS), heads * (width + _STATE_NUMBERS)
    # Without a kernel, a short context is copied whole, repeated for the query heads, and masked.
    whole = 2 * panel * (kv_heads + heads) * width * number + step_tokens * panel * (1 + number)
    # Copies for the prefill kernel, and what it packs of them: of one head, or as many as GATHERED_BYTES hold.
    head = 2 * context * width * number
    heads_each = min(kv_heads, max(1, GATHERED_BYTES // head))
    # The twin: copies of a panel's keys and values, scores, and what is merged.
    twin = 4 * panel * kv_heads * width * number + 4 * QUERY_ROWS * panel * 4 + 3 * step_tokens * heads * width * 4
    # 8-bit codes become float32 before `dtype`; and each slot's number is written out.
    decoded = 4 * width * max(heads_each * context, kv_heads * panel) + 8 * context
    return max(whole, 2 * heads_each * head, twin) + decoded + few_tokens * MOST_SPLITS * room * 4


def paged_attention_twin(queries_TNK: Tensor, cache: CacheLayer, blocks: Tensor, context: int) -> Tensor:
    """Compute causal attention (T, N, K) of the last T of the `context` tokens in `blocks`, in order."""
    tokens, heads, width = queries_TNK.shape
    kv_heads = cache.keys_BSMK.shape[2]
    group, size, device = heads // kv_heads, cache.block_tokens, queries_TNK.device
    # The query heads that share a key/value head stand as rows of one product: nothing is expanded.
    queries_MRK = (queries_TNK * width**-0.5).unflatten(1, (kv_heads, group)).transpose(0, 1).flatten(1, 2)
    positions_R = torch.arange(context - tokens, context, device=device).repeat_interleave(group)
    merged = [[_Merged(rows_RK) for rows_RK in head_RK.split(QUERY_ROWS)] for head_RK in queries_MRK]
    for start in range(0, context, CONTEXT_TOKENS):
        stop = min(start + CONTEXT_TOKENS, context)
        slots = cache.slots(blocks[start // size : -(-stop // size)], stop - start)
        keys_MPK, values_MPK = (x.transpose(0, 1).contiguous() for x in cache.read(slots, queries_TNK.dtype))
        positions_P = torch.arange(start, stop, device=device)
        for head in range(kv_heads):
            for rows, positions in zip(merged[head], positions_R.split(QUERY_ROWS), strict=True):
                future = None if stop <= context - tokens else positions_P > positions[:, None]
                rows.add(keys_MPK[head], values_MPK[head], future)
    out_MRK = torch.stack([torch.cat([rows.result() for rows in head]) for head in merged])
    out_TNK: Tensor = out_MRK.unflatten(1, (tokens, group)).transpose(0, 1).flatten(1, 2)
    return out_TNK


def decode_attention(queries_RNK: Tensor, cache: CacheLayer, block_tables_RB: Tensor, lengths_R: Tensor) -> Tensor:
    """Query r over the first `lengths_R[r]` tokens of the blocks `block_tables_RB[r]`, at least one; (R, N, K)."""
    if not cuda.serves(queries_RNK):
        return decode_attention_twin(queries_RNK, cache, block_tables_RB, lengths_R)
    from tessera.kernels.triton_paged_attention import paged_attention

    out_RNK: Tensor = paged_attention(
        queries_RNK,
        cache.keys_BSMK,
        cache.values_BSMK,
        block_tables_RB,
        lengths_R,
        cache.key_scales_BSM,
        cache.value_scales_BSM,
    )
    return out_RNK


def decode_attention_twin(queries_RNK: Tensor, cache: CacheLayer, block_tables_RB: Tensor, lengths_R: Tensor) -> Tensor:
    """The same from a copy of all the blocks; the query heads that share a key/value head stand as rows."""
    context = block_tables_RB.shape[1] * cache.block_tokens
    slots_RC = cache.slots(block_tables_RB.flatten(), len(lengths_R) * context).view(-1, context)
    seen_RC = torch.arange(context, device=slots_RC.device) < lengths_R[:, None]
    # Unseen slots may hold another sequence's leftovers, even NaN, which a weight of zero does not cancel.
    keys_RMCK, values_RMCK = (
        x.view(*slots_RC.shape, *x.shape[1:]).masked_fill_(~seen_RC[..., None, None], 0).transpose(1, 2)
        for x in cache.read(slots_RC.flatten(), queries_RNK.dtype)
    )
    queries = queries_RNK.unflatten(1, (keys_RMCK.shape[1], -1))
    mask = seen_RC[:, None, None, :]
    return F.scaled_dot_product_attention(queries, keys_RMCK, values_RMCK, attn_mask=mask).flatten(1, 2)


class _Merged:
    """Query rows' attention merged so far; the first panel must hold a key that each row sees."""

    def __init__(self, queries_RK: Tensor) -> None:
        self.queries_RK = queries_RK
        self.highest_R1 = torch.full_like(queries_RK[:, :1], -torch.inf)
        self.total_R1 = torch.zeros_like(self.highest_R1, dtype=torch.float32)
        self.sum_RK = torch.zeros_like(queries_RK, dtype=torch.float32)

    def add(self, keys_PK: Tensor, values_PK: Tensor, future_RP: Tensor | None) -> None:
        scores_RP = linear(self.queries_RK, keys_PK)
        if future_RP is not None:
            scores_RP.masked_fill_(future_RP, -torch.inf)
        highest_R1 = torch.maximum(self.highest_R1, scores_RP.amax(-1, keepdim=True))
        shrink_R1 = (self.highest_R1.float() - highest_R1.float()).exp_()
        weights_RP = scores_RP.sub_(highest_R1).exp_()
        self.total_R1 = self.total_R1 * shrink_R1 + weights_RP.sum(-1, keepdim=True, dtype=torch.float32)
        self.sum_RK = self.sum_RK.mul_(shrink_R1).add_(linear(weights_RP, values_PK.T))
        self.highest_R1 = highest_R1

    def result(self) -> Tensor:
        out_RK: Tensor = self.sum_RK / self.total_R1
        return out_RK.to(self.queries_RK.dtype)
