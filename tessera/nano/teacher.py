"""The losses that teach nano, and attention that can be watched while it learns.

On a CPU plain products and softmax train several times faster than the fused attention with small
heads, and they give the attention weights that the pointer loss guides: one head of one layer is
taught to look at the patch that the last character came from, one of a later layer at the patch
of the next. The guided heads and the character head (which is dropped after training) exist
because next-token loss alone had learned to read nothing after 14,000 samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.model.attention import AttentionPlan, VisionPlan
from tessera.model.pixtral import Pixtral
from tessera.model.rope import Rotation
from tessera.nano.lessons import CHARACTER_CLASSES, CHARACTERS_PER_PATCH, IGNORED, NOTHING, Batch
from tessera.nano.recipe import Recipe

HERE_LAYER, NEXT_LAYER = 1, 3  # layers whose head 0 is guided
SMALLEST_WEIGHT = 1e-6  # floor under a guided attention weight, so that its logarithm stays finite


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Softmax weights (R, N, L, L) of queries (R, L, N, K) and keys (R, L, M, K); mask is additive."""
    rows, length, heads, width = queries.shape
    shared = keys.shape[2]
    grouped = queries.view(rows, length, shared, heads // shared, width).permute(0, 2, 3, 1, 4)
    scores = grouped.reshape(rows, shared, -1, width) * width**-0.5 @ keys.permute(0, 2, 3, 1)
    weights: Tensor = (scores.view(rows, heads, length, -1) + mask).softmax(dim=-1)
    return weights


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted values, flat (R * L, N, K), of weights (R, N, L, L) and values (R, L, M, K)."""
    rows, heads, length, _ = weights.shape
    shared, width = values.shape[2:]
    mixed = weights.reshape(rows, shared, -1, length) @ values.transpose(1, 2)
    return mixed.view(rows, heads, length, width).transpose(1, 2).reshape(rows * length, heads, width)


class WatchedPlan(AttentionPlan):
    """Causal attention over R padded rows that keeps the weights of head 0 of the guided layers."""

    def __init__(self, batch: Batch, dtype: torch.dtype) -> None:
        self.rows, length = batch.ids.shape
        device = batch.ids.device
        self.positions_T = torch.arange(length, device=device).repeat(self.rows)
        self.mask = torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)
        self.watched: dict[int, Tensor] = {}

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(0, (self.rows, -1)) for x in (queries_TNK, keys_TMK, values_TMK))
        weights = attention_weights(queries, keys, self.mask)
        if layer in (HERE_LAYER, NEXT_LAYER):
            self.watched[layer] = weights[:, 0]
        return mix(weights, values)


class PaddedVisionPlan(VisionPlan):
    """Attention within each of R images that are padded to one patch count."""

    def __init__(self, batch: Batch, rotation: Rotation, dtype: torch.dtype) -> None:
        super().__init__(batch.grids, _spread(rotation, batch.real_patches))
        self.rows = len(batch.real_patches)
        closed = torch.zeros(batch.real_patches.shape, dtype=dtype, device=batch.real_patches.device)
        self.mask = closed.masked_fill(~batch.real_patches, float("-inf"))[:, None, None, :]

    def attend(self, queries_PNK: Tensor, keys_PNK: Tensor, values_PNK: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(0, (self.rows, -1)) for x in (queries_PNK, keys_PNK, values_PNK))
        return mix(attention_weights(queries, keys, self.mask), values)


def _spread(rotation: Rotation, real: Tensor) -> Rotation:
    """Lay the rotation of the real patches out with the padding between them."""

    def spread(angles: Tensor) -> Tensor:
        return torch.zeros(real.numel(), angles.shape[-1], device=real.device).index_put((real.flatten(),), angles)

    return Rotation(spread(rotation.cos), spread(rotation.sin))


@dataclass(frozen=True)
class Marks:
    """Sums over a batch, and their counts, so that batches of any sizes add up."""

    loss: Tensor
    token_loss: float
    tokens: int
    characters_right: int
    characters: int
    tokens_right: int
    pointed_right: int
    pointed: int


class Teacher(nn.Module):
    """The student and the head that names each patch's characters; gives the loss of a batch."""

    def __init__(self, student: Pixtral, recipe: Recipe) -> None:
        super().__init__()
        self.student = student
        self.recipe = recipe
        self.character_head = nn.Linear(student.config.dim, CHARACTERS_PER_PATCH * CHARACTER_CLASSES)

    def forward(self, batch: Batch) -> Marks:
        model, dtype = self.student, self.student.dtype
        rotation = model.vision_encoder.plan(batch.grids).rotation
        vision_plan = PaddedVisionPlan(batch, rotation, dtype)
        features = model.vision_encoder(batch.patches.to(dtype), vision_plan)
        embeddings = model.adapt(features, vision_plan)[batch.real_patches.flatten()]
        plan = WatchedPlan(batch, dtype)
        hidden = model(model.embed(batch.ids.flatten(), [embeddings]), plan)

        predicts = batch.predicts.flatten()
        logits = model.logits(hidden[predicts])
        targets = batch.ids.roll(-1, 1).flatten()[predicts]
        losses = F.cross_entropy(logits, targets, reduction="none")
        # Halfway between equal tokens and equal answers: else long texts would drown the charts' short ones.
        weights = batch.predicts.sum(1, keepdim=True).rsqrt().expand_as(batch.ids)[batch.predicts]
        token_loss = (losses * weights).sum() / weights.sum()
        named, named_targets = self._name_characters(embeddings, batch)
        dense_loss = F.cross_entropy(named, named_targets)
        printed = named_targets != NOTHING
        pointer_loss, pointed_right, pointed = _pointer_loss(plan, batch)
        loss = token_loss + self.recipe.dense_weight * dense_loss + self.recipe.pointer_weight * pointer_loss
        return Marks(
            loss=loss,
            token_loss=float(losses.detach().sum()),
            tokens=len(targets),
            tokens_right=int((logits.argmax(-1) == targets).sum()),
            characters_right=int(((named.argmax(-1) == named_targets) & printed).sum()),
            characters=int(printed.sum()),
            pointed_right=pointed_right,
            pointed=pointed,
        )

    def _name_characters(self, embeddings: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch.characters[batch.real_patches].flatten()
        named = self.character_head(embeddings).view(-1, CHARACTER_CLASSES)
        kept = targets != IGNORED
        return named[kept].float(), targets[kept]


def _pointer_loss(plan: WatchedPlan, batch: Batch) -> tuple[Tensor, int, int]:
    """Cross-entropy of both guided heads, and how often the later one looks at the right patch."""
    losses, right, count = [], 0, 0
    # At token t, "here" is where token t is printed, in the question too; "next" where token t + 1 of
    # the answer will be read.
    following = batch.sources.roll(-1, 1).masked_fill(~batch.predicts, -1)
    for layer, sources in ((HERE_LAYER, batch.sources), (NEXT_LAYER, following)):
        rows, tokens = torch.nonzero(sources >= 0, as_tuple=True)
        looked = plan.watched[layer][rows, tokens]
        wanted = sources[rows, tokens]
        losses.append(-looked.gather(1, wanted[:, None]).float().clamp_min(SMALLEST_WEIGHT).log().mean())
        if layer == NEXT_LAYER:
            right, count = int((looked.argmax(-1) == wanted).sum()), len(wanted)
    return torch.stack(losses).mean(), right, count
