"""Attention over the paged cache against PyTorch's own in float64, over what the cache holds."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import library, paged_attention
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.library import PATHS
from tessera.kernels.paged_attention import (
    MOST_FEW_TOKENS,
    MOST_SPLITS,
    SPLIT_TOKENS,
    DecodeRows,
    PagedChunk,
    has_kernel,
    paged_attention_twin,
)
from tessera.kernels.prefill_attention import QUERIES, prefill_attention

CPU = torch.device("cpu")
HEADS, KV_HEADS = 8, 2
# Relative errors in norm: sums in float32 in another order; and 8 bits of mantissa in scores, weights and outputs.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 0.01}


def filled(
    context: int, width: int, stored: torch.dtype, seed: int, block_tokens: int = 16
) -> tuple[CacheLayer, Tensor]:
    """A cache full of numbers, also where others were, and the blocks in which a sequence of `context` tokens lies."""
    generator = torch.Generator().manual_seed(seed)
    num_blocks = -(-context // block_tokens)
    cache = CacheLayer.zeros(num_blocks + 3, block_tokens, KV_HEADS, width, stored, CPU)
    rows = torch.randn(2, (num_blocks + 3) * block_tokens, KV_HEADS, width, generator=generator)
    rows = rows.to(torch.float32 if stored == torch.int8 else stored)
    cache.write(torch.arange(rows.shape[1]), *rows)
    return cache, torch.randperm(num_blocks + 3, generator=generator)[:num_blocks].to(torch.int32)


def expected(queries_TNK: Tensor, cache: CacheLayer, blocks: Tensor, context: int) -> Tensor:
    keys, values = cache.read(cache.slots(blocks, context), torch.float64)
    positions_T = torch.arange(context - len(queries_TNK), context)
    return F.scaled_dot_product_attention(
        queries_TNK.double().transpose(0, 1),
        keys.transpose(0, 1).repeat_interleave(HEADS // KV_HEADS, 0),
        values.transpose(0, 1).repeat_interleave(HEADS // KV_HEADS, 0),
        attn_mask=torch.arange(context) <= positions_T[:, None],
    ).transpose(0, 1)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("tokens", "context"), [(1, 1), (1, 15), (1, 16), (3, 17), (5, 1000), (200, 1000), (70, 70)])
def test_panels_of_the_context_merge_to_the_whole(
    tokens: int, context: int, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_attention, "CONTEXT_TOKENS", 64)
    monkeypatch.setattr(paged_attention, "QUERY_ROWS", 96)
    dtype = torch.bfloat16 if stored == torch.bfloat16 else torch.float32
    cache, blocks = filled(context, 64, stored, seed=tokens + context)
    queries = torch.randn(tokens, HEADS, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = paged_attention_twin(queries, cache, blocks, context)
    assert got.dtype == dtype
    assert relative_error(got, expected(queries, cache, blocks, context)) < BOUNDS[dtype]


def forced_or_skipped(path: str) -> AbstractContextManager[None]:
    highest = library.choice().path
    if library.PATHS.index(path) > library.PATHS.index(highest):
        pytest.skip(f"this machine's kernels end at {highest}")
    return library.forced(path)


@pytest.mark.parametrize("path", ["avx2", "avx512", "avx512_bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(("width", "block_tokens"), [(8, 16), (32, 32), (64, 16), (88, 16), (88, 32), (128, 16)])
def test_the_kernel_attends_what_the_cache_holds(
    path: str, dtype: torch.dtype, stored: torch.dtype, width: int, block_tokens: int
) -> None:
    generator = torch.Generator().manual_seed(width)
    contexts = (1, 15, 16, 17, 100, 1000)
    with forced_or_skipped(path):
        cache, blocks = filled(1000, width, stored, width, block_tokens)
        assert has_kernel(cache)
        chunks, wanted, start = [], [], 0
        queries = torch.randn(sum(contexts), HEADS, width, generator=generator).to(dtype)
        for context in contexts:
            for length in {1, 2, min(7, context), min(MOST_FEW_TOKENS, context)} - {0 if context > 1 else 2}:
                chunks.append(PagedChunk(start, length, context, blocks[: -(-context // block_tokens)]))
                wanted.append(expected(queries[start : start + length], cache, blocks, context))
                start += length + 1  # a row between them belongs to none
        few = DecodeRows(chunks, block_tokens)
        got = few.attend(queries, cache)
    for rows, each in zip(got.split([chunk.length for chunk in chunks]), wanted, strict=True):
        assert relative_error(rows, each) < BOUNDS[dtype]


@pytest.mark.parametrize(("block_tokens", "width", "dtype"), [(8, 64, torch.float32), (64, 64, torch.float32),
                                                              (16, 20, torch.float32), (16, 264, torch.float32),
                                                              (16, 64, torch.float64)])  # fmt: skip
def test_caches_that_the_kernel_does_not_know_are_left_alone(block_tokens: int, width: int, dtype: torch.dtype) -> None:
    assert not has_kernel(CacheLayer.zeros(2, block_tokens, KV_HEADS, width, dtype, CPU))
    assert not has_kernel(CacheLayer.zeros(2, 16, KV_HEADS, 64, torch.float32, CPU).heads(0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_bits_alone_as_with_those_after_it(dtype: torch.dtype) -> None:
    cache, blocks = filled(SPLIT_TOKENS * MOST_SPLITS + 4, 64, torch.bfloat16, seed=0)
    if not has_kernel(cache):
        pytest.skip("the kernels are not built here")
    queries = torch.randn(8, HEADS, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    # The last of these contexts are split otherwise than the first.
    for context in (9, 16, 250, 1003, SPLIT_TOKENS * MOST_SPLITS + 4):
        whole = PagedChunk(0, 8, context, blocks[: -(-context // 16)])
        together = DecodeRows([whole], 16).attend(queries, cache)
        assert torch.equal(DecodeRows(whole.cut(1, 16), 16).attend(queries, cache), together)
        assert torch.equal(DecodeRows(whole.cut(3, 16), 16).attend(queries, cache), together)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("tokens", "context"), [(40, 700), (150, 700)])
def test_many_tokens_over_a_long_context_some_heads_at_a_time(
    tokens: int, context: int, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefill kernel, where there is one, is given one key/value head after another."""
    given = []

    def spy(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
        given.append((queries.shape[1], keys.shape[1]))
        return prefill_attention(queries, keys, values, causal=causal)

    monkeypatch.setattr(paged_attention, "prefill_attention", spy)
    monkeypatch.setattr(paged_attention, "GATHERED_BYTES", 1)
    cache, blocks = filled(context, 64, stored, seed=tokens)
    queries = torch.randn(tokens, HEADS, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        got = paged_attention.paged_attention(queries, cache, blocks, context)
    assert relative_error(got, expected(queries, cache, blocks, context)) < BOUNDS[torch.bfloat16]
    in_panels = tokens >= QUERIES and PATHS.index(library.choice().path) >= PATHS.index("avx512_bf16")
    assert given == ([(HEADS // KV_HEADS, 1)] * KV_HEADS if in_panels else [])
