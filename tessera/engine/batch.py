"""The step in tensors: all chunks' tokens in one row, where each is stored, and what each may see.

It reads requests and changes none. A finished batch is all that a model's rank needs to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tessera.engine.kv_cache import KVCache
from tessera.engine.request import Request
from tessera.engine.scheduler import Chunk
from tessera.images import PreparedImage
from tessera.kernels.flash_attention import Stretches
from tessera.kernels.paged_attention import MOST_FEW_TOKENS, PagedChunk, has_kernel
from tessera.machine import upload
from tessera.model.attention import AttentionPlan, PagedPlan
from tessera.model.device_plan import Decodes, DevicePlan, Prefills

# Devices whose steps are attended in few calls; on a CPU each sequence alone is faster, since its keys then stay
# in the CPU's cache (8 requests of 1000 tokens at Pixtral's heads, bf16, two cores: 5 ms alone, 7 ms together).
DEVICE_PLANS = {"cuda"}


@dataclass(frozen=True)
class ImageRows:
    """Rows start to end of a picture's embeddings, which the step's tokens take in order."""

    image: PreparedImage
    key: bytes  # by which its embeddings are cached: its content, and the salt of who asks
    start: int
    end: int
    begins: bool = True  # no earlier step of this request's run needed the picture


@dataclass(frozen=True)
class ScoredRows:
    """Rows of the step whose logits say how likely the prompt tokens `target_ids`, each the next one, were."""

    request: Request
    row: int
    target_ids: list[int]


@dataclass(frozen=True)
class Batch:
    ids_T: Tensor
    num_image_tokens: int
    plan: AttentionPlan
    images: list[ImageRows]  # in the order of their tokens
    sampled: list[Request]
    drafts: list[tuple[int, ...]]  # of each request in `sampled`
    sampled_rows_R: Tensor  # of T: for each request in `sampled` its last token, then those of its draft
    scored: list[ScoredRows]


def build_batch(chunks: Sequence[Chunk], cache: KVCache, device: torch.device, image_token_id: int) -> Batch:
    """Lay the chunks end to end, those of one token first."""
    chunks = sorted(chunks, key=lambda chunk: chunk.length > 1)
    ids: list[int] = []
    images: list[ImageRows] = []
    sampled, drafts, scored = [], [], []
    sampled_rows: list[int] = []
    for chunk in chunks:
        row = len(ids)
        ids += chunk_ids(chunk)
        images += image_rows(chunk)
        if rows := scored_rows(chunk, row):
            scored.append(rows)
        if chunk.samples:
            sampled.append(chunk.request)
            drafts.append(chunk.draft)
            sampled_rows += range(row + chunk.length - 1, len(ids))
    return Batch(
        upload(ids, torch.int64, device),
        ids.count(image_token_id),
        build_plan(chunks, cache, device),
        images,
        sampled,
        drafts,
        upload(sampled_rows, torch.int64, device),
        scored,
    )


def build_plan(chunks: Sequence[Chunk], cache: KVCache, device: torch.device) -> AttentionPlan:
    """Where the chunks' tokens stand, where they are stored, and what they see; those of one token come first."""
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


def chunk_ids(chunk: Chunk) -> list[int]:
    """The chunk's tokens and those of its draft."""
    return [*chunk.request.ids[chunk.start : chunk.end], *chunk.draft]


def positions(chunks: Sequence[Chunk]) -> list[int]:
    return [position for chunk in chunks for position in range(chunk.start, chunk.start + chunk.num_rows)]


def slots(chunks: Sequence[Chunk], cache: KVCache) -> list[int]:
    return [
        slot
        for chunk in chunks
        for slot in cache.slots(chunk.request.blocks, chunk.start, chunk.start + chunk.num_rows)
    ]


def paged_chunks(chunks: Sequence[Chunk], cache: KVCache, together: int = 1) -> list[PagedChunk]:
    """What each chunk sees, the blocks on the CPU.

    A drafted token is one more decoding row, attended as it would be if it had been chosen: up to `together` in a call.
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
    """The blocks of what each row sees, filled up with the block that is nobody's; on the CPU."""
    tables = [decode.blocks for decode in decodes]
    return pad_sequence(tables, batch_first=True, padding_value=cache.padding_block)


def _decodes(decodes: Sequence[PagedChunk], cache: KVCache, device: torch.device) -> Decodes:
    lengths = [decode.context for decode in decodes]
    return Decodes(upload(block_tables(decodes, cache), torch.int32, device), upload(lengths, torch.int32, device))


def _prefills(prefills: Sequence[PagedChunk], cache: KVCache, device: torch.device) -> Prefills:
    stretches = Stretches.of([each.length for each in prefills], [each.context for each in prefills], device)
    seen = [cache.layers[0].slots(each.blocks, each.context) for each in prefills]
    return Prefills(stretches, upload(torch.cat(seen), torch.int64, device))


def scored_rows(chunk: Chunk, row: int) -> ScoredRows | None:
    """The chunk's rows, the first of which is `row`, that predict a prompt token whose log-probability is wanted."""
    request = chunk.request
    if request.params.prompt_logprobs is None:
        return None
    # A request that was set back computes its prompt again: what is known already is not scored twice.
    start = max(chunk.start, len(request.prompt_logprobs))
    target_ids = list(request.prompt.ids[start + 1 : chunk.end + 1])
    return ScoredRows(request, row + start - chunk.start, target_ids) if target_ids else None


def image_rows(chunk: Chunk) -> list[ImageRows]:
    """The embeddings that the chunk's image tokens take.

    Example: a picture of 2 rows and 3 columns at position 10 has the tokens 10-12, break 13, 14-16,
    end 17; a chunk of the positions 12 to 15 takes its embeddings 2, 3 and 4: rows 2 to 5.
    """
    found = []
    for span in chunk.request.prompt.images:
        if span.start < chunk.end and chunk.start < span.start + span.length:
            columns = span.image.grid[1]
            first, last = max(chunk.start - span.start, 0), min(chunk.end - span.start, span.length)
            begins = first == 0 or chunk.start == chunk.request.resumed_at
            rows = embeddings_before(first, columns), embeddings_before(last, columns)
            found.append(ImageRows(span.image, chunk.request.image_key(span.image), *rows, begins))
    return found


def embeddings_before(offset: int, columns: int) -> int:
    """Image tokens among the first `offset` tokens of a span whose rows end in a break or end token."""
    rows, rest = divmod(offset, columns + 1)
    return rows * columns + rest
