"""The attention plans of an engine's step over its KV cache, and the choice between them.

On a CPU each sequence is attended alone, except that a few decoding tokens share a call. On a GPU two
calls per layer serve any number of sequences: the decoding rows come first, and only the values in
their tensors depend on the sequences' lengths, so a CUDA graph can replay them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tessera.engine.kv_cache import KVCache
from tessera.engine.request import Chunk
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.flash_attention import Segments
from tessera.kernels.paged_attention import (
    CONTEXT_TOKENS,
    MOST_FEW_TOKENS,
    DecodeRows,
    PagedChunk,
    decode_attention,
    has_kernel,
    paged_attention,
)
from tessera.machine import upload
from tessera.model.attention import AttentionPlan, attend, attend_segments

# Devices that attend a step in few calls; on a CPU each sequence alone is faster, since its keys then stay
# in the CPU's cache (8 requests of 1000 tokens at Pixtral's heads, bf16, two cores: 5 ms alone, 7 ms together).
DEVICE_PLANS = {"cuda"}


class PagedPlan(AttentionPlan):
    """Attends new tokens of many sequences, whose earlier keys and values lie in blocks of a cache.

    Token t writes slot `slots_T[t]`, where slot = block * S + offset. Each row of the step belongs to
    one of `chunks`. The idea of the paged cache is vLLM's, arXiv 2309.06180.

    Keys and values are always read from the cache, even for the step's own tokens: with a cache that
    rounds, a reply would otherwise depend on how its prompt was chunked and on earlier requests.
    """

    def __init__(
        self,
        cache: Sequence[CacheLayer],
        positions_T: Tensor,
        slots_T: Tensor,
        chunks: Sequence[PagedChunk],
    ) -> None:
        self.cache = cache
        self.positions_T, self.slots_T = positions_T, slots_T
        few = [chunk for chunk in chunks if chunk.length <= MOST_FEW_TOKENS and has_kernel(cache[0])]
        self.few = DecodeRows(few, cache[0].block_tokens) if few else None
        self.chunks = [chunk for chunk in chunks if chunk not in few]

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        cache = self.cache[layer]
        cache.write(self.slots_T, keys_TMK, values_TMK)
        if self.few is not None and not self.chunks:
            return self.few.attend(queries_TNK, cache)
        out_TNK = torch.empty_like(queries_TNK)
        if self.few is not None:
            out_TNK[self.few.rows_R] = self.few.attend(queries_TNK, cache)
        for chunk in self.chunks:
            rows = slice(chunk.start, chunk.start + chunk.length)
            if chunk.context > CONTEXT_TOKENS:
                out_TNK[rows] = paged_attention(queries_TNK[rows], cache, chunk.blocks, chunk.context)
                continue
            if chunk.context == chunk.length and cache.is_exact:
                context = keys_TMK[rows], values_TMK[rows]
            else:
                context = cache.read(cache.slots(chunk.blocks, chunk.context), queries_TNK.dtype)
            out_TNK[rows] = attend(queries_TNK[rows], *context, causal=True)
        return out_TNK


@dataclass(frozen=True)
class Decodes:
    """One new token in each of R sequences: it is the last of the first `lengths_R[r]` tokens in the blocks."""

    block_tables_RB: Tensor  # int32; entries beyond a sequence's blocks are arbitrary
    lengths_R: Tensor  # int32


@dataclass(frozen=True)
class Prefills:
    """Several new tokens in each of some sequences; `slots_C` are the slots of their whole contexts, end to end."""

    segments: Segments
    slots_C: Tensor

    @property
    def are_whole(self) -> bool:
        """Return True if the contexts consist of the new tokens alone."""
        return self.segments.lengths == self.segments.contexts


class DevicePlan(AttentionPlan):
    """Token t writes slot `slots_T[t]`; the rows of `decodes` come first."""

    def __init__(
        self,
        cache: Sequence[CacheLayer],
        positions_T: Tensor,
        slots_T: Tensor,
        decodes: Decodes | None,
        prefills: Prefills | None,
    ) -> None:
        self.cache = cache
        self.positions_T, self.slots_T = positions_T, slots_T
        self.decodes, self.prefills = decodes, prefills

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        cache = self.cache[layer]
        cache.write(self.slots_T, keys_TMK, values_TMK)
        parts = []
        start = 0
        if self.decodes is not None:
            start = len(self.decodes.lengths_R)
            tables_RB, lengths_R = self.decodes.block_tables_RB, self.decodes.lengths_R
            parts.append(decode_attention(queries_TNK[:start], cache, tables_RB, lengths_R))
        if self.prefills is not None:
            if self.prefills.are_whole and cache.is_exact:
                context = keys_TMK[start:], values_TMK[start:]
            else:
                context = cache.read(self.prefills.slots_C, queries_TNK.dtype)
            parts.append(attend_segments(self.prefills.segments, queries_TNK[start:], *context, causal=True))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def build_plan(chunks: Sequence[Chunk], cache: KVCache, device: torch.device) -> AttentionPlan:
    """Build the plan of the chunks' positions, cache slots and contexts; single-token chunks come first."""
    positions_T = upload(positions(chunks), torch.int64, device)
    slots_T = upload(slots(chunks, cache), torch.int64, device)
    if device.type not in DEVICE_PLANS:
        together = MOST_FEW_TOKENS if has_kernel(cache.layers[0]) else 1
        return PagedPlan(cache.layers, positions_T, slots_T, paged_chunks(chunks, cache, together))
    paged = paged_chunks(chunks, cache)
    decodes = [each for each in paged if each.length == 1]
    prefills = paged[len(decodes) :]
    return DevicePlan(
        cache.layers,
        positions_T,
        slots_T,
        _decodes(decodes, cache, device) if decodes else None,
        _prefills(prefills, cache, device) if prefills else None,
    )


def positions(chunks: Sequence[Chunk]) -> list[int]:
    return [position for chunk in chunks for position in range(chunk.start, chunk.start + chunk.num_rows)]


def slots(chunks: Sequence[Chunk], cache: KVCache) -> list[int]:
    return [
        slot
        for chunk in chunks
        for slot in cache.slots(chunk.request.blocks, chunk.start, chunk.start + chunk.num_rows)
    ]


def paged_chunks(chunks: Sequence[Chunk], cache: KVCache, together: int = 1) -> list[PagedChunk]:
    """Return the chunks with the blocks they attend to, on the CPU.

    A drafted token is one more decoding row, attended as if it had been chosen: up to `together` in a call.
    """
    paged: list[PagedChunk] = []
    row = 0
    for chunk in chunks:
        end = chunk.start + chunk.num_rows
        whole = PagedChunk(row, chunk.num_rows, end, cache.table(chunk.request.blocks, end))
        paged += [whole] if chunk.length > 1 else whole.cut(together, cache.block_tokens)
        row += chunk.num_rows
    return paged


def block_tables(decodes: Sequence[PagedChunk], cache: KVCache) -> Tensor:
    """Return the blocks of each row's context, padded with the padding block; on the CPU."""
    tables = [decode.blocks for decode in decodes]
    return pad_sequence(tables, batch_first=True, padding_value=cache.padding_block)


def _decodes(decodes: Sequence[PagedChunk], cache: KVCache, device: torch.device) -> Decodes:
    lengths = [decode.context for decode in decodes]
    return Decodes(upload(block_tables(decodes, cache), torch.int32, device), upload(lengths, torch.int32, device))


def _prefills(prefills: Sequence[PagedChunk], cache: KVCache, device: torch.device) -> Prefills:
    segments = Segments.of([each.length for each in prefills], [each.context for each in prefills], device)
    seen = [cache.layers[0].slots(each.blocks, each.context) for each in prefills]
    return Prefills(segments, upload(torch.cat(seen), torch.int64, device))
