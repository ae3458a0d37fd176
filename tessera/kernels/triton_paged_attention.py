"""Attention of one new token in each of many sequences over a paged cache, in Triton, for GPUs.

A step reads every cached key and value once and computes little: it is bound by bandwidth. So a
sequence's context is split over several programs, each with the query heads that share one
key/value head as the rows of its products, and a second kernel joins the splits by their sums. The
number of splits depends only on the number of sequences, and lengths are read on the device: a CUDA
graph of the step stays valid while contexts grow. Source: Flash-Decoding
(https://pytorch.org/blog/flash-decoding/). The twin is `paged_attention.paged_attention_twin`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_TOKENS = 64
PROGRAMS = 1024  # at least this many: several for each of a large GPU's 132 multiprocessors
MAX_SPLITS = 64
MIN_DOT_ROWS = 16  # the least that the matrix units multiply


@triton.jit
def _attend_split(
    queries,
    keys,
    values,
    key_scales,
    value_scales,
    block_tables,
    lengths,
    partial,
    sums,
    scale,
    max_blocks,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    width: tl.constexpr,
    block_tokens: tl.constexpr,
    splits: tl.constexpr,
    padded_rows: tl.constexpr,
    padded_width: tl.constexpr,
    tile: tl.constexpr,
    scaled: tl.constexpr,
    precision: tl.constexpr,
):
    """Attend one split of a sequence's context for a key/value head: partial (R, N, splits, K), sums (R, N, splits)."""
    request, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // kv_heads
    length = tl.load(lengths + request)
    share = tl.cdiv(tl.cdiv(length, splits), tile) * tile
    begin = split * share
    end = tl.minimum(begin + share, length)
    row, channel = tl.arange(0, padded_rows), tl.arange(0, padded_width)
    query_mask = (row < group)[:, None] & (channel < width)[None, :]
    query_head = head * group + row
    query = tl.load(
        queries + (request * heads + query_head)[:, None] * width + channel[None, :], mask=query_mask, other=0.0
    )
    largest = tl.full([padded_rows], float("-inf"), tl.float32)
    total = tl.zeros([padded_rows], tl.float32)
    out = tl.zeros([padded_rows, padded_width], tl.float32)
    for start in range(begin, end, tile):
        token = start + tl.arange(0, tile)
        seen = token < end
        block = tl.load(block_tables + request * max_blocks + token // block_tokens, mask=seen, other=0)
        slot_head = (block.to(tl.int64) * block_tokens + token % block_tokens) * kv_heads + head
        place = slot_head[:, None] * width + channel[None, :]
        mask = seen[:, None] & (channel < width)[None, :]
        key = tl.load(keys + place, mask=mask, other=0).to(query.dtype)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        if scaled:
            scores *= tl.load(key_scales + slot_head, mask=seen, other=0.0).to(tl.float32)[None, :]
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - new_largest[:, None])
        kept = tl.exp(largest - new_largest)
        total = total * kept + tl.sum(weights, 1)
        if scaled:
            weights *= tl.load(value_scales + slot_head, mask=seen, other=0.0).to(tl.float32)[None, :]
        value = tl.load(values + place, mask=mask, other=0).to(query.dtype)
        out = out * kept[:, None] + tl.dot(weights.to(query.dtype), value, input_precision=precision)
        largest = new_largest
    # A split without tokens has a sum of minus infinity, and counts for nothing when they are joined.
    place = (request * heads + query_head) * splits + split
    # In base e: log of the sum of exponentials of this split's scores.
    sum_log = tl.where(total > 0, largest + tl.log(tl.maximum(total, 1e-30)), float("-inf"))
    tl.store(sums + place, sum_log, mask=row < group)
    mean = out / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(partial + place[:, None] * width + channel[None, :], mean, mask=query_mask)


@triton.jit
def _join_splits(partial, sums, out, width: tl.constexpr, splits: tl.constexpr, padded_width: tl.constexpr):
    """Average the splits' means weighted by their sums: one program for each query head of each sequence."""
    row = tl.program_id(0)
    split, channel = tl.arange(0, splits), tl.arange(0, padded_width)
    logs = tl.load(sums + row * splits + split)
    largest = tl.max(logs, 0)
    # A padded row has length 0: no split counts, and the result is 0.
    weights = tl.exp(logs - tl.where(largest > float("-inf"), largest, 0.0))
    total = tl.sum(weights, 0)
    weights = weights / tl.where(total > 0, total, 1.0)
    place = (row * splits + split)[:, None] * width + channel[None, :]
    means = tl.load(partial + place, mask=(channel < width)[None, :], other=0.0)
    result = tl.sum(means * weights[:, None], 0)
    tl.store(out + row * width + channel, result.to(out.dtype.element_ty), mask=channel < width)


def paged_attention(
    queries_RNK: Tensor,
    keys_BSMK: Tensor,
    values_BSMK: Tensor,
    block_tables_RB: Tensor,
    lengths_R: Tensor,
    key_scales_BSM: Tensor | None = None,
    value_scales_BSM: Tensor | None = None,
) -> Tensor:
    """Attend query r to the first `lengths_R[r]` tokens of the blocks `block_tables_RB[r]`; returns (R, N, K).

    Tables and lengths are int32. With scales the cache holds 8-bit codes: value = code * scale.
    """
    requests, heads, width = queries_RNK.shape
    block_tokens, kv_heads = keys_BSMK.shape[1:3]
    splits = num_splits(requests, kv_heads)
    queries_RNK = queries_RNK.contiguous()
    partial = torch.empty(requests, heads, splits, width, dtype=torch.float32, device=queries_RNK.device)
    sums = torch.empty(requests, heads, splits, dtype=torch.float32, device=queries_RNK.device)
    out_RNK = torch.empty_like(queries_RNK)
    padded_width = triton.next_power_of_2(width)
    scaled = key_scales_BSM is not None
    _attend_split[(requests, kv_heads, splits)](
        queries_RNK,
        keys_BSMK,
        values_BSMK,
        key_scales_BSM if scaled else sums,  # a pointer that is not read
        value_scales_BSM if scaled else sums,
        block_tables_RB,
        lengths_R,
        partial,
        sums,
        width**-0.5,
        block_tables_RB.shape[1],
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        block_tokens=block_tokens,
        splits=splits,
        padded_rows=max(MIN_DOT_ROWS, triton.next_power_of_2(heads // kv_heads)),
        padded_width=max(MIN_DOT_ROWS, padded_width),
        tile=TILE_TOKENS,
        scaled=scaled,
        precision="ieee",  # float32 as it is, never rounded to TF32
        num_warps=4,
        num_stages=3,
    )
    _join_splits[(requests * heads,)](
        partial, sums, out_RNK, width=width, splits=splits, padded_width=padded_width, num_warps=1
    )
    return out_RNK


def num_splits(requests: int, kv_heads: int) -> int:
    """Return the number of programs that share one sequence's context, a power of two."""
    return min(triton.next_power_of_2(triton.cdiv(PROGRAMS, requests * kv_heads)), MAX_SPLITS)
