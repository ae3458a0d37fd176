"""The loss of a pack: logits of labelled rows only, a few at a time, of which nothing is kept.

All logits of a 4,096-token sample of the 12B would take 5 GB; 512 rows of them take 0.6. A frozen head's gradient is
computed at once with the loss, so its logits are computed once; a trained head computes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tessera.finetune.lean import is_lean
from tessera.finetune.packing import FILLER, Pack
from tessera.kernels.gradients import records
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral

CHUNK_ROWS = 512


@dataclass(frozen=True)
class Marks:
    """The loss to descend, and counts that can be summed: the sum of losses over `labelled` tokens, by source too."""

    loss: Tensor
    total: float
    labelled: int
    right: int
    tokens: int
    images: int
    by_source: dict[str, tuple[float, int]] = field(default_factory=dict)


def nothing() -> Marks:
    """Return the marks of no samples."""
    return Marks(torch.zeros(()), 0.0, 0, 0, 0, 0)


def mark_beside(model: Pixtral, pack: Pack, embeddings: Sequence[Tensor], unseen: Tensor | None) -> Marks:
    """Mark a pass of which other ranks compute the like at the same time: all weights that theirs use get a gradient.

    `unseen` is a 0 that depends on the image path, for a pass without images. One without samples counts nothing.
    """
    if pack.samples:
        marks = mark(model, pack, embeddings)
    else:
        marks = replace(nothing(), loss=0 * mark(model, replace(pack, samples=(FILLER,)), ()).loss)
    return marks if unseen is None else replace(marks, loss=marks.loss + unseen)


def mark(model: Pixtral, pack: Pack, embeddings: Sequence[Tensor]) -> Marks:
    """Compute a pack's part of its step's mean loss, scaled so that the mean over the step's passes is that mean."""
    plan = DensePlan(pack.lengths, model.device)
    embedded_TD = model.embed(pack.ids(model.device), embeddings)
    if torch.is_grad_enabled() and not embedded_TD.requires_grad and not is_lean(model.layers[0]):
        # Else the first layer would take kernels that round otherwise, in passes without images alone.
        embedded_TD.requires_grad_()
    hidden_TD = model(embedded_TD, plan)
    rows, targets = pack.rows(model.device)
    losses, right = token_losses(model, hidden_TD[rows], targets)
    by_source: dict[str, tuple[float, int]] = {}
    sources = pack.sources()
    for (name, _), part in zip(sources, losses.detach().split([count for _, count in sources]), strict=True):
        total, count = by_source.get(name, (0.0, 0))
        by_source[name] = total + float(part.sum()), count + len(part)
    return Marks(
        losses.sum() * (pack.passes / pack.step_labelled),
        float(losses.detach().sum()),
        len(targets),
        int(right.sum()),
        pack.tokens,
        len(pack.images),
        by_source,
    )


def token_losses(model: Pixtral, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's loss in float32, and whether its target is the likeliest token."""
    pairs = zip(hidden_RD.split(CHUNK_ROWS), targets_R.split(CHUNK_ROWS), strict=True)
    if any(parameter.requires_grad for parameter in model.output.parameters()):
        chunks = [checkpoint(partial(_chunk, model), *pair, use_reentrant=False) for pair in pairs]
    elif records(hidden_RD):
        chunks = [_FrozenHead.apply(model, *pair) for pair in pairs]  # type: ignore[no-untyped-call]
    else:
        chunks = [_chunk(model, *pair) for pair in pairs]
    return torch.cat([losses for losses, _ in chunks]), torch.cat([right for _, right in chunks])


class _FrozenHead(torch.autograd.Function):
    """`_chunk` of a head that is not trained: keeps each row's gradient, D numbers, instead of V logits."""

    @staticmethod
    def forward(ctx: Any, model: Pixtral, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            rows_RD = hidden_RD.detach().requires_grad_()
            losses, right = _chunk(model, rows_RD, targets_R)
            (gradient_RD,) = torch.autograd.grad(losses.sum(), rows_RD)
        ctx.save_for_backward(gradient_RD)
        ctx.mark_non_differentiable(right)
        return losses.detach(), right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_R: Tensor, _: object) -> tuple[None, Tensor, None]:
        (gradient_RD,) = ctx.saved_tensors
        return None, (gradient_RD * gradient_R[:, None]).to(gradient_RD.dtype), None


def _chunk(model: Pixtral, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    logits = model.logits(hidden_RD)
    return F.cross_entropy(logits, targets_R, reduction="none"), logits.detach().argmax(-1) == targets_R


def checkpoint_blocks(model: Pixtral) -> None:
    """Keep only what enters each layer, and compute the rest again for the gradient.

    Not reentrant: the reentrant kind gives no gradients behind an input that is frozen, such as pixels.
    """
    for block in (*model.layers, *model.vision_encoder.transformer.layers):
        own: nn.Module = block
        own.forward = partial(checkpoint, own.forward, use_reentrant=False)
