"""Where a reply looked: a prompt whose last tokens' attention to the images is read while it is computed.

The prompt is a conversation with the reply that it got. Its images' embeddings and the keys of its prefix come from
the caches; only the watched tokens are computed again, by the usual kernels, and besides them the weights of a few
heads, densely, for these tokens alone. arXiv 2503.06287 has the idea of a few heads that point at what is spoken of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tessera.chat import Glance, Head
from tessera.engine.kv_cache import KVCache
from tessera.engine.request import Chunk
from tessera.kernels.cache_layer import CacheLayer
from tessera.machine import upload
from tessera.model.attention import AttentionPlan
from tessera.prompt import ImageSpan, Prompt, Tokenizer

ROWS_PER_PRODUCT = 128  # watched tokens at once: their weights over a long context are kept in float32
REACH = 0.5  # neighbours of the patch with the most weight count while they have this share of it


@dataclass(frozen=True)
class WatchedPrompt(Prompt):
    """A prompt with positions whose attention is read; `glances` gets, by position, one for each head."""

    positions: tuple[int, ...] = ()
    heads: tuple[Head, ...] = ()
    glances: dict[int, dict[Head, Glance]] = field(default_factory=dict)


class WatchingPlan(AttentionPlan):
    """Another plan, whose attention it computes, with some tokens' weights read beside it."""

    def __init__(self, plan: AttentionPlan, cache: Sequence[CacheLayer], watched: Sequence[_Watched]) -> None:
        self.plan, self.cache, self.watched = plan, cache, watched
        self.positions_T = plan.positions_T

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        out_TNK = self.plan.attend(layer, queries_TNK, keys_TMK, values_TMK)
        for each in self.watched:
            for head in each.prompt.heads:
                if head.layer == layer:
                    shared = head.head * keys_TMK.shape[1] // queries_TNK.shape[1]  # query heads share a key head
                    keys_C1K, _ = self.cache[layer].heads(shared, shared + 1).read(each.slots_C, queries_TNK.dtype)
                    each.read(head, queries_TNK[:, head.head], keys_C1K[:, 0])
        return out_TNK


@dataclass(frozen=True)
class _Watched:
    """The watched tokens of one chunk: their positions, and their rows in the step; the slots of the context."""

    prompt: WatchedPrompt
    positions: tuple[int, ...]
    rows: tuple[int, ...]
    slots_C: Tensor

    def read(self, head: Head, queries_TK: Tensor, keys_CK: Tensor) -> None:
        for first in range(0, len(self.rows), ROWS_PER_PRODUCT):
            rows = self.rows[first : first + ROWS_PER_PRODUCT]
            positions = self.positions[first : first + ROWS_PER_PRODUCT]
            weights_RC = attention_weights(queries_TK[list(rows)], keys_CK, positions)
            for position, found in zip(positions, glances(weights_RC, self.prompt.images), strict=True):
                self.prompt.glances.setdefault(position, {})[head] = found


def attention_weights(queries_RK: Tensor, keys_CK: Tensor, positions: Sequence[int]) -> Tensor:
    """Return causal softmax weights (R, C), in float32, of one head's queries at the given positions."""
    queries_RK, keys_CK = queries_RK.float(), keys_CK.float()
    scores_RC = queries_RK @ keys_CK.T * queries_RK.shape[-1] ** -0.5
    context = torch.arange(len(keys_CK), device=scores_RC.device)
    later_RC = context > torch.tensor(positions, device=scores_RC.device)[:, None]
    weights_RC: Tensor = scores_RC.masked_fill(later_RC, float("-inf")).softmax(-1)
    return weights_RC


def glances(weights_RC: Tensor, spans: Sequence[ImageSpan]) -> list[Glance]:
    """Return, for each row, the image patch with the most weight, and the neighbours that share its weight."""
    columns_of = [span.image.grid[1] for span in spans]
    places = torch.cat([_image_tokens(span) for span in spans]).to(weights_RC.device)
    counts = [span.image.grid[0] * span.image.grid[1] for span in spans]
    weights_RP = weights_RC[:, places].cpu()
    found = []
    for weights_P, best in zip(weights_RP, weights_RP.argmax(-1).tolist(), strict=True):
        number, offset = 0, best
        while offset >= counts[number]:
            offset -= counts[number]
            number += 1
        columns = columns_of[number]
        row, column = divmod(offset, columns)
        line = weights_P[best - column : best - column + columns]
        enough = (line >= REACH * line[column]).tolist()
        first = last = column
        while first > 0 and enough[first - 1]:
            first -= 1
        while last < columns - 1 and enough[last + 1]:
            last += 1
        found.append(Glance(number, spans[number].image.grid, row, column, float(line[column]), (first, last)))
    return found


def watching(plan: AttentionPlan, chunks: Sequence[Chunk], cache: KVCache) -> AttentionPlan:
    """Return the plan of a step's chunks, in their order, that also reads what is watched of them."""
    watched, row = [], 0
    for chunk in chunks:
        prompt = chunk.request.prompt
        if isinstance(prompt, WatchedPrompt):
            inside = tuple(position for position in prompt.positions if chunk.start <= position < chunk.end)
            if inside:
                slots = cache.slots(chunk.request.blocks, 0, inside[-1] + 1)
                slots_C = upload(slots, torch.int64, plan.positions_T.device)
                rows = tuple(row + position - chunk.start for position in inside)
                watched.append(_Watched(prompt, inside, rows, slots_C))
        row += chunk.num_rows
    return WatchingPlan(plan, cache.layers, watched) if watched else plan


def first_watched(prompt: Prompt) -> int | None:
    """Return the first position that must be computed even if it is cached; None if any may come from the cache."""
    return min(prompt.positions, default=None) if isinstance(prompt, WatchedPrompt) else None


def find_glances(
    start: Callable[[Prompt], Iterable[object]],
    tokenizer: Tokenizer,
    prompt: Prompt,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    heads: Sequence[Head],
) -> list[list[tuple[Glance, ...]]]:
    """Compute a prompt with its reply, and return for each span of the reply's text the glances of its tokens.

    Only tokens that begin a printed character look anywhere. `start` asks for one token after the prompt.
    """
    tokens = _reply_tokens(tokenizer, ids)
    text = b"".join(piece for _, piece in tokens)
    wanted = [_inside(tokens, *_byte_span(text, span)) for span in spans]
    first = len(prompt.ids)
    positions = {first + token - head.before for inside in wanted for token in inside for head in heads}
    if not positions or not prompt.images:
        return [[] for _ in spans]
    watched = WatchedPrompt((*prompt.ids, *ids), prompt.images, tuple(sorted(positions)), tuple(heads))
    for _ in start(watched):
        pass
    return [
        [tuple(watched.glances[first + token - head.before][head] for head in heads) for token in inside]
        for inside in wanted
    ]


def _reply_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[int, bytes]]:
    """Return each token's first byte in the reply's UTF-8, and its bytes."""
    found, end = [], 0
    for number, token_id in enumerate(ids):
        piece = tokenizer.token_bytes(token_id)
        if number == 0 and tokenizer.opens_with_space:
            piece = piece.removeprefix(b" ")
        found.append((end, piece))
        end += len(piece)
    return found


def _byte_span(text: bytes, span: tuple[int, int]) -> tuple[int, int]:
    characters = text.decode(errors="replace")
    return len(characters[: span[0]].encode()), len(characters[: span[1]].encode())


def _inside(tokens: Sequence[tuple[int, bytes]], start: int, end: int) -> list[int]:
    """The tokens that overlap these bytes and begin a character that is printed."""
    return [
        number
        for number, (first, piece) in enumerate(tokens)
        if first < end and start < first + len(piece) and piece.strip() and piece[0] & 0xC0 != 0x80
    ]


def _image_tokens(span: ImageSpan) -> Tensor:
    """The positions of an image's patches: a break or end token follows each row."""
    rows, columns = span.image.grid
    return span.start + torch.arange(rows)[:, None].mul(columns + 1).add(torch.arange(columns)).flatten()
