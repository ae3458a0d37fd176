"""One step as tensors: all chunks' tokens in one row, their cache slots, and the images they use.

It reads requests but never changes them. A finished batch is all that a rank needs to compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.engine.kv_cache import KVCache
from tessera.engine.plans import build_plan
from tessera.engine.request import Chunk, Request
from tessera.engine.watch import watching
from tessera.images import PreparedImage
from tessera.linears.slots import Stretch
from tessera.machine import upload
from tessera.model.attention import AttentionPlan


@dataclass(frozen=True)
class ImageRows:
    """Rows start to end of an image's embeddings, assigned to the step's image tokens in order."""

    image: PreparedImage
    key: bytes  # cache key of its embeddings: the content and the requester's salt
    start: int
    end: int
    begins: bool = True  # no earlier step of this request's run needed the image
    slot: int | None = None  # of the adapter that it is encoded with


@dataclass(frozen=True)
class ScoredRows:
    """Rows of the step whose logits score the prompt tokens `target_ids`, each the token after its row."""

    request: Request
    row: int
    target_ids: list[int]


@dataclass(frozen=True)
class Batch:
    ids_T: Tensor
    num_image_tokens: int
    plan: AttentionPlan
    images: list[ImageRows]  # in token order
    sampled: list[Request]
    drafts: list[tuple[int, ...]]  # one for each request in `sampled`
    sampled_rows_R: Tensor  # indices into T: for each request in `sampled` its last token, then its draft
    scored: list[ScoredRows]
    stretches: tuple[Stretch, ...] = ()  # rows of T with an adapter
    sampled_stretches: tuple[Stretch, ...] = ()  # the same of `sampled_rows_R`


def build_batch(chunks: Sequence[Chunk], cache: KVCache, device: torch.device, image_token_id: int) -> Batch:
    """Lay the chunks end to end, single-token chunks first, and among them those of one adapter together."""
    chunks = sorted(chunks, key=lambda chunk: (chunk.length > 1, -1 if (slot := chunk.request.slot) is None else slot))
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
        watching(build_plan(chunks, cache, device), chunks, cache),
        images,
        sampled,
        drafts,
        upload(sampled_rows, torch.int64, device),
        scored,
        stretches((chunk.request.slot, chunk.num_rows) for chunk in chunks),
        stretches((chunk.request.slot, 1 + len(chunk.draft)) for chunk in chunks if chunk.samples),
    )


def stretches(rows: Iterable[tuple[int | None, int]]) -> tuple[Stretch, ...]:
    """Return the stretches of rows with an adapter, from each request's slot and number of rows.

    Example: (None, 2), (1, 3), (1, 1), (0, 1) are the stretches (1, 2, 6) and (0, 6, 7).
    """
    found: list[Stretch] = []
    row = 0
    for slot, count in rows:
        if slot is not None:
            joins = bool(found) and found[-1][0] == slot and found[-1][2] == row
            first = found.pop()[1] if joins else row
            found.append((slot, first, row + count))
        row += count
    return tuple(found)


def chunk_ids(chunk: Chunk) -> list[int]:
    """Return the chunk's tokens followed by its draft."""
    return [*chunk.request.ids[chunk.start : chunk.end], *chunk.draft]


def scored_rows(chunk: Chunk, row: int) -> ScoredRows | None:
    """Return the chunk's rows, starting at `row`, that predict prompt tokens with requested log-probabilities."""
    request = chunk.request
    if request.params.prompt_logprobs is None:
        return None
    # A preempted request computes its prompt again; tokens scored before are not scored twice.
    start = max(chunk.start, len(request.prompt_logprobs))
    target_ids = list(request.prompt.ids[start + 1 : chunk.end + 1])
    return ScoredRows(request, row + start - chunk.start, target_ids) if target_ids else None


def image_rows(chunk: Chunk) -> list[ImageRows]:
    """Return the embeddings that the chunk's image tokens take.

    Example: an image of 2 rows and 3 columns at position 10 has the tokens 10-12, break 13, 14-16,
    end 17; a chunk of the positions 12 to 15 takes its embeddings 2, 3 and 4: rows 2 to 5.
    """
    found = []
    for span in chunk.request.prompt.images:
        if span.start < chunk.end and chunk.start < span.start + span.length:
            columns = span.image.grid[1]
            first, last = max(chunk.start - span.start, 0), min(chunk.end - span.start, span.length)
            begins = first == 0 or chunk.start == chunk.request.resumed_at
            rows = embeddings_before(first, columns), embeddings_before(last, columns)
            key, slot = chunk.request.image_key(span.image), chunk.request.image_slot
            found.append(ImageRows(span.image, key, *rows, begins, slot))
    return found


def embeddings_before(offset: int, columns: int) -> int:
    """Count the image tokens among the first `offset` of a span whose rows end in a break or end token."""
    rows, rest = divmod(offset, columns + 1)
    return rows * columns + rest
