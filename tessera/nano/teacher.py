"""The losses that train nano, and attention whose weights can be read during training.

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
from tessera.nano.lessons import CHARACTER_CLASSES, CHARACTERS_PER_PATCH, IGNORED, NOTHING, Batch, Run
from tessera.nano.recipe import Stage

HERE_LAYER, NEXT_LAYER = 1, 3  # layers whose head 0 is guided
SMALLEST_WEIGHT = 1e-6  # floor under a guided attention weight, so that its logarithm stays finite


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax weights (N, L, C) of queries (L, N, K) and keys (C, M, K); the mask (L, C) is additive."""
    length, heads, width = queries.shape
    shared = keys.shape[1]
    rows = (queries * width**-0.5).view(length, shared, -1, width).permute(1, 2, 0, 3).reshape(shared, -1, width)
    scores = (rows @ keys.permute(1, 2, 0)).view(heads, length, -1)
    out: Tensor = (scores if mask is None else scores + mask).softmax(dim=-1)
    return out


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted values (L, N, K) of weights (N, L, C) and values (C, M, K)."""
    heads, length, context = weights.shape
    shared, width = values.shape[1:]
    mixed: Tensor = weights.view(shared, -1, context) @ values.transpose(0, 1)
    return mixed.view(heads, length, width).transpose(0, 1)


class WatchedPlan(AttentionPlan):
    """Causal attention of a batch that keeps the weights of head 0 of the guided layers.

    A token sees its page's shared tokens and its own question: to the model every question is the only one.
    """

    def __init__(self, batch: Batch, dtype: torch.dtype) -> None:
        self.positions_T = batch.positions
        self.shared, self.runs = batch.shared, batch.runs
        self.causal = [_closed(_past(part.stop - part.start, batch.ids.device), dtype) for part in batch.shared]
        self.masks = [_closed(_seen(batch, run), dtype) for run in batch.runs]
        # For each guided layer and run, the weights (L, S) of head 0 over the shared tokens.
        self.watched: dict[int, list[Tensor]] = {HERE_LAYER: [], NEXT_LAYER: []}

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        attended: dict[int, Tensor] = {}
        for part, mask in zip(self.shared, self.causal, strict=True):
            weights = attention_weights(queries_TNK[part], keys_TMK[part], mask)
            attended[part.start] = mix(weights, values_TMK[part])
        for run, mask in zip(self.runs, self.masks, strict=True):
            keys, values = (torch.cat([x[run.shared], x[run.own]]) for x in (keys_TMK, values_TMK))
            weights = attention_weights(queries_TNK[run.own], keys, mask)
            attended[run.own.start] = mix(weights, values)
            if layer in self.watched:
                self.watched[layer].append(weights[0, :, : run.shared.stop - run.shared.start])
        return torch.cat([attended[start] for start in sorted(attended)])


def _past(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _seen(batch: Batch, run: Run) -> Tensor:
    """The mask of a run's tokens: they see all shared tokens, and the past of their own question."""
    own = batch.answers[run.own]
    past = _past(len(own), own.device) & (own[:, None] == own)
    return torch.cat([past.new_ones(len(own), run.shared.stop - run.shared.start), past], dim=1)


def _closed(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, float("-inf"))


class PlainVisionPlan(VisionPlan):
    """Attention within each picture, by plain products."""

    def attend(self, queries_PNK: Tensor, keys_PNK: Tensor, values_PNK: Tensor) -> Tensor:
        pictures = [x.split(self.lengths) for x in (queries_PNK, keys_PNK, values_PNK)]
        return torch.cat([mix(attention_weights(q, k), v) for q, k, v in zip(*pictures, strict=True)])


@dataclass(frozen=True)
class Marks:
    """The loss of a batch, and counts that can be summed over batches of any size."""

    loss: Tensor
    token_loss: float = 0.0
    tokens: int = 0
    tokens_right: int = 0
    answers: int = 0
    answers_right: int = 0  # answers whose every token is the likeliest, as greedy decoding would write
    characters: int = 0
    characters_right: int = 0
    pointed: int = 0
    pointed_right: int = 0
    pages: int = 0
    patches: int = 0


class Teacher(nn.Module):
    """The student and the head that names each patch's characters; computes the loss of a batch."""

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
        """Embeddings (P, D) of all pictures."""
        model, dtype = self.student, self.student.dtype
        if not batch.grids:
            return model.tok_embeddings.weight.new_zeros(0, model.config.dim)
        plan = PlainVisionPlan(batch.grids, model.vision_encoder.plan(batch.grids).rotation)
        return model.adapt(model.vision_encoder(batch.patches_PX.to(dtype), plan), plan)

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
    """Count the answers, and those without a wrong token."""
    numbers = batch.answers[batch.weights > 0]
    every, wrong = len(numbers.unique()), len(numbers[~right].unique())
    return every, every - wrong


def _pointer_loss(plan: WatchedPlan, batch: Batch) -> tuple[Tensor, int, int]:
    """Compute the cross-entropy of both guided heads, and count how often the later one looks at the right patch."""
    losses, right, count = [], 0, 0
    # At token t, "here" is where token t is printed, in the question too; "next" where token t + 1 of
    # the answer will be read.
    following = batch.sources.roll(-1).masked_fill(batch.weights == 0, -1)
    for layer, sources in ((HERE_LAYER, batch.sources), (NEXT_LAYER, following)):
        looked, wanted = [], []
        for run, weights in zip(batch.runs, plan.watched[layer], strict=True):
            places = sources[run.own]
            pointed = places >= 0
            wanted.append(places[pointed])
            looked.append(weights[pointed].gather(1, wanted[-1][:, None])[:, 0])
            if layer == NEXT_LAYER:
                right += int((weights[pointed].argmax(-1) == wanted[-1]).sum())
                count += len(wanted[-1])
        if sum(map(len, looked)):
            losses.append(-torch.cat(looked).float().clamp_min(SMALLEST_WEIGHT).log().mean())
    return torch.stack(losses).mean() if losses else batch.weights.new_zeros(()), right, count
