"""The losses that teach nano, and attention that can be watched while it learns.

On a CPU plain products and softmax train several times faster than the fused attention with small
heads, and they give the attention weights that the pointer loss guides: one head of one layer is
taught to look at the patch that the last character came from, one of a later layer at the patch
of the next. The guided heads and the character head (which is dropped after training) exist
because next-token loss alone had learned to read nothing after 14,000 samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.model.attention import AttentionPlan, VisionPlan
from tessera.model.pixtral import Pixtral
from tessera.model.rope import Rotation
from tessera.nano.lessons import CHARACTER_CLASSES, CHARACTERS_PER_PATCH, IGNORED, NOTHING, Batch, Stretches
from tessera.nano.recipe import Stage

HERE_LAYER, NEXT_LAYER = 1, 3  # layers whose head 0 is guided
SMALLEST_WEIGHT = 1e-6  # floor under a guided attention weight, so that its logarithm stays finite


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Scaled products (R, N, L, C) of queries (R, L, N, K) and keys (R, C, M, K)."""
    rows, length, heads, width = queries.shape
    shared = keys.shape[2]
    grouped = queries.view(rows, length, shared, heads // shared, width).permute(0, 2, 3, 1, 4)
    scores = grouped.reshape(rows, shared, -1, width) * width**-0.5 @ keys.permute(0, 2, 3, 1)
    out: Tensor = scores.view(rows, heads, length, -1)
    return out


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Softmax weights (R, N, L, C) of queries (R, L, N, K) and keys (R, C, M, K); mask is additive."""
    return attention_scores(queries, keys).add_(mask).softmax(dim=-1)


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted values, flat (R * L, N, K), of weights (R, N, L, C) and values (R, C, M, K)."""
    rows, heads, length, context = weights.shape
    shared, width = values.shape[2:]
    mixed = weights.reshape(rows, shared, -1, context) @ values.transpose(1, 2)
    return mixed.view(rows, heads, length, width).transpose(1, 2).reshape(rows * length, heads, width)


class WatchedPlan(AttentionPlan):
    """Causal attention of a batch that keeps the weights of head 0 of the guided layers.

    A token sees its page's shared tokens and its own question: to the model every question is the only one.
    """

    def __init__(self, batch: Batch, dtype: torch.dtype) -> None:
        self.positions_T = batch.positions
        self.shared, self.questions = batch.shared, batch.questions
        self.shared_mask = _causal(self.shared, dtype)
        closed = torch.zeros(self.shared.real.shape, dtype=dtype, device=batch.ids.device)
        closed = closed.masked_fill(~self.shared.real, float("-inf"))[:, None, None]
        self.masks = [(_causal(group, dtype), closed[group.rows]) for group in self.questions]
        # Of each guided layer: for every group of questions, the weights (G, S, P) of head 0 over the shared tokens.
        self.watched: dict[int, list[Tensor]] = {}

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        shared = self.shared
        keys, values = keys_TMK[shared.index], values_TMK[shared.index]
        weights = attention_weights(queries_TNK[shared.index], keys, self.shared_mask)
        attended = [mix(weights, values)[shared.real.flatten()]]
        for group, (own, open_shared) in zip(self.questions, self.masks, strict=True):
            queries = queries_TNK[group.index]
            scores = [
                attention_scores(queries, keys[group.rows]).add_(open_shared),
                attention_scores(queries, keys_TMK[group.index]).add_(own),
            ]
            weights = torch.cat(scores, -1).softmax(-1)
            seen = torch.cat([values[group.rows], values_TMK[group.index]], 1)
            attended.append(mix(weights, seen)[group.real.flatten()])
            if layer in (HERE_LAYER, NEXT_LAYER):
                self.watched.setdefault(layer, []).append(weights[:, 0, :, : keys.shape[1]])
        return torch.cat(attended)


def _causal(stretches: Stretches, dtype: torch.dtype) -> Tensor:
    """A mask (G, 1, S, S) within each stretch; padding sees itself, so that no row of weights is empty."""
    length = stretches.index.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=stretches.index.device).tril()
    allowed = past & (stretches.real[:, None, :] | past.diagonal().diag())
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, float("-inf"))[:, None]


class PaddedVisionPlan(VisionPlan):
    """Attention within each of I pictures that are padded to one patch count."""

    def __init__(self, batch: Batch, rotation: Rotation, dtype: torch.dtype) -> None:
        super().__init__(batch.grids, _spread(rotation, batch.real_patches))
        self.pictures = len(batch.real_patches)
        closed = torch.zeros(batch.real_patches.shape, dtype=dtype, device=batch.real_patches.device)
        self.mask = closed.masked_fill(~batch.real_patches, float("-inf"))[:, None, None, :]

    def attend(self, queries_PNK: Tensor, keys_PNK: Tensor, values_PNK: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(0, (self.pictures, -1)) for x in (queries_PNK, keys_PNK, values_PNK))
        return mix(attention_weights(queries, keys, self.mask), values)


def _spread(rotation: Rotation, real: Tensor) -> Rotation:
    """Lay the rotation of the real patches out with the padding between them."""

    def spread(angles: Tensor) -> Tensor:
        return torch.zeros(real.numel(), angles.shape[-1], device=real.device).index_put((real.flatten(),), angles)

    return Rotation(spread(rotation.cos), spread(rotation.sin))


@dataclass(frozen=True)
class Marks:
    """The loss of a batch, and counts that add up over batches of any sizes."""

    loss: Tensor
    token_loss: float = 0.0
    tokens: int = 0
    tokens_right: int = 0
    answers: int = 0
    answers_right: int = 0  # each of whose tokens is the likeliest: what greedy decoding would write
    characters: int = 0
    characters_right: int = 0
    pointed: int = 0
    pointed_right: int = 0
    pages: int = 0
    patches: int = 0


class Teacher(nn.Module):
    """The student and the head that names each patch's characters; gives the loss of a batch."""

    def __init__(self, student: Pixtral) -> None:
        super().__init__()
        self.student = student
        self.character_head = nn.Linear(student.config.dim, CHARACTERS_PER_PATCH * CHARACTER_CLASSES)

    def forward(self, batch: Batch, stage: Stage) -> Marks:
        with torch.set_grad_enabled(torch.is_grad_enabled() and stage.encoder_rate > 0):
            embeddings = self._encode(batch)
        marks = Marks(loss=embeddings.new_zeros(()), pages=batch.pages, patches=len(embeddings))
        if stage.dense_weight > 0 and len(embeddings):
            marks = self._mark_characters(marks, embeddings, batch, stage.dense_weight)
        if stage.decoder_rate > 0 and bool((batch.weights > 0).any()):
            marks = self._mark_answers(marks, embeddings, batch, stage.pointer_weight)
        return marks

    def _encode(self, batch: Batch) -> Tensor:
        """Embeddings (patches, D) of all pictures, without padding."""
        model, dtype = self.student, self.student.dtype
        if not batch.grids:
            return model.tok_embeddings.weight.new_zeros(0, model.config.dim)
        plan = PaddedVisionPlan(batch, model.vision_encoder.plan(batch.grids).rotation, dtype)
        features = model.vision_encoder(batch.patches.to(dtype), plan)
        return model.adapt(features[batch.real_patches.flatten()], plan)

    def _mark_characters(self, marks: Marks, embeddings: Tensor, batch: Batch, weight: float) -> Marks:
        targets = batch.characters.flatten()
        kept = targets != IGNORED
        named = self.character_head(embeddings).view(-1, CHARACTER_CLASSES)[kept].float()
        targets = targets[kept]
        printed = targets != NOTHING
        return replace(
            marks,
            loss=marks.loss + weight * F.cross_entropy(named, targets),
            characters=int(printed.sum()),
            characters_right=int(((named.argmax(-1) == targets) & printed).sum()),
        )

    def _mark_answers(self, marks: Marks, embeddings: Tensor, batch: Batch, pointer_weight: float) -> Marks:
        model = self.student
        plan = WatchedPlan(batch, model.dtype)
        hidden = model(model.embed(batch.ids, [embeddings]), plan)
        taught = batch.weights > 0
        logits = model.logits(hidden[taught])
        targets = batch.ids.roll(-1)[taught]
        weights = batch.weights[taught]
        losses = F.cross_entropy(logits, targets, reduction="none")
        right = logits.argmax(-1) == targets
        answers, answers_right = _whole_answers(batch, right)
        pointer_loss, pointed_right, pointed = _pointer_loss(plan, batch)
        return replace(
            marks,
            loss=marks.loss + (losses * weights).sum() / weights.sum() + pointer_weight * pointer_loss,
            token_loss=float(losses.detach().sum()),
            tokens=len(targets),
            tokens_right=int(right.sum()),
            answers=answers,
            answers_right=answers_right,
            pointed=pointed,
            pointed_right=pointed_right,
        )


def _whole_answers(batch: Batch, right: Tensor) -> tuple[int, int]:
    """How many answers there are, and how many have no wrong token."""
    numbers = batch.answers[batch.weights > 0]
    every, wrong = len(numbers.unique()), len(numbers[~right].unique())
    return every, every - wrong


def _pointer_loss(plan: WatchedPlan, batch: Batch) -> tuple[Tensor, int, int]:
    """Cross-entropy of both guided heads, and how often the later one looks at the right patch."""
    losses, right, count = [], 0, 0
    # At token t, "here" is where token t is printed, in the question too; "next" where token t + 1 of
    # the answer will be read.
    following = batch.sources.roll(-1).masked_fill(batch.weights == 0, -1)
    for layer, sources in ((HERE_LAYER, batch.sources), (NEXT_LAYER, following)):
        looked, wanted = [], []
        for group, weights in zip(batch.questions, plan.watched[layer], strict=True):
            places = sources[group.index].masked_fill(~group.real, -1)
            pointed = places >= 0
            wanted.append(places[pointed])
            looked.append(weights[pointed].gather(1, wanted[-1][:, None])[:, 0])
            if layer == NEXT_LAYER:
                right += int((weights[pointed].argmax(-1) == wanted[-1]).sum())
                count += len(wanted[-1])
        if sum(map(len, looked)):
            losses.append(-torch.cat(looked).float().clamp_min(SMALLEST_WEIGHT).log().mean())
    return torch.stack(losses).mean() if losses else batch.weights.new_zeros(()), right, count
