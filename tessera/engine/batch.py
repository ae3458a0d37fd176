"""The step in tensors: all chunks' tokens in one row, where each is stored, and what each may see.

It reads requests and changes none. A finished batch is all that a model's rank needs to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tessera.engine.kv_cache import KVCache
from tessera.engine.request import Request
from tessera.engine.scheduler import Chunk
from tessera.images import PreparedImage
from tessera.kernels.paged_attention import MOST_FEW_TOKENS, PagedChunk, has_kernel
from tessera.model.attention import PagedDecodes, PagedPlan

# On a GPU few calls matter: decoding requests are padded to one length and attended together. On a CPU
# each alone is faster, since its keys then stay in the CPU's cache (8 requests of 1000 tokens at
# Pixtral's heads, bf16, two cores: 5 ms alone, 7 ms together).
PADDED_TOKENS_PER_CALL = {"cuda": 2**18}
MAX_PADDING = 1.5  # the longest context of a call over the shortest


@dataclass(frozen=True)
class ImageRows:
    """Rows start to end of a picture's embeddings, which the step's tokens take in order."""

    image: PreparedImage
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
    plan: PagedPlan
    images: list[ImageRows]  # in the order of their tokens
    sampled: list[Request]
    drafts: list[tuple[int, ...]]  # of each request in `sampled`
    sampled_rows_R: Tensor  # of T: for each request in `sampled` its last token, then those of its draft
    scored: list[ScoredRows]


def build_batch(chunks: Sequence[Chunk], cache: KVCache, device: torch.device) -> Batch:
    """Lay the chunks end to end."""
    ids: list[int] = []
    positions: list[Tensor] = []
    slots: list[int] = []
    images: list[ImageRows] = []
    paged: list[PagedChunk] = []
    sampled, drafts, scored = [], [], []
    sampled_rows: list[int] = []
    tokens_together = MOST_FEW_TOKENS if has_kernel(cache.layers[0]) else 1
    for chunk in chunks:
        request, row = chunk.request, len(ids)
        end = chunk.end + len(chunk.draft)
        ids += [*request.ids[chunk.start : chunk.end], *chunk.draft]
        positions.append(torch.arange(chunk.start, end))
        slots += cache.slots(request.blocks, chunk.start, end)
        images += image_rows(chunk)
        whole = PagedChunk(row, chunk.num_rows, end, cache.table(request.blocks, end))
        # A drafted token is one more decoding row, attended as it would be if it had been chosen.
        paged += [whole] if chunk.length > 1 else whole.cut(tokens_together, cache.block_tokens)
        if rows := scored_rows(chunk, row):
            scored.append(rows)
        if chunk.samples:
            sampled.append(request)
            drafts.append(chunk.draft)
            sampled_rows += range(row + chunk.length - 1, len(ids))
    limit = PADDED_TOKENS_PER_CALL.get(device.type, 0)
    decodes = [each for each in paged if limit and each.length == 1]
    plan = PagedPlan(
        cache.layers,
        torch.cat(positions).to(device),
        torch.tensor(slots).to(device),
        [_pad(group, cache, device) for group in group_decodes(decodes, limit)],
        [replace(each, blocks=each.blocks.to(device)) for each in paged if not limit or each.length > 1],
    )
    sampled_rows_R = torch.tensor(sampled_rows, dtype=torch.int64).to(device)
    return Batch(torch.tensor(ids).to(device), plan, images, sampled, drafts, sampled_rows_R, scored)


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
            found.append(ImageRows(span.image, *rows, begins))
    return found


def embeddings_before(offset: int, columns: int) -> int:
    """Image tokens among the first `offset` tokens of a span whose rows end in a break or end token."""
    rows, rest = divmod(offset, columns + 1)
    return rows * columns + rest


def group_decodes(decodes: Sequence[PagedChunk], limit: int) -> list[list[PagedChunk]]:
    """Decoding rows that are attended in one call: contexts of about one length, the shortest first."""
    groups: list[list[PagedChunk]] = []
    for decode in sorted(decodes, key=lambda decode: decode.context):
        longest = decode.context
        group = groups[-1] if groups else []
        if group and longest * (len(group) + 1) <= limit and longest <= MAX_PADDING * group[0].context:
            group.append(decode)
        else:
            groups.append([decode])
    return groups


def _pad(group: Sequence[PagedChunk], cache: KVCache, device: torch.device) -> PagedDecodes:
    rows_R = torch.tensor([decode.start for decode in group])
    contexts = [cache.layers[0].slots(decode.blocks, decode.context) for decode in group]
    slots_RC = pad_sequence(contexts, batch_first=True, padding_value=cache.padding_slot)
    lengths_R = torch.tensor([decode.context for decode in group])
    visible_RC = torch.arange(slots_RC.shape[1]) < lengths_R[:, None]
    return PagedDecodes(
        rows_R.to(device), slots_RC.to(device), None if bool(visible_RC.all()) else visible_RC.to(device)
    )
