"""Attention, and the plan that defines which tokens see each other in one step.

The plan is ONE required argument of every layer: the reference implementation once lost its image
mask because `mask=None` was legal everywhere. `AttentionPlan` is the decoder's interface: this module
has the dense plan of whole sequences; the engine has plans over its KV cache, and training has its own.
Images never share a mask: each is attended alone, by its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.kernels.attention_gradients import prefers_float32_gradients, trained_attention
from tessera.kernels.elementwise import rotate
from tessera.kernels.flash_attention import Segments, flash_attention, prefers_flash
from tessera.kernels.int8_attention import int8_attention, prefers_int8_attention
from tessera.kernels.prefill_attention import prefers_prefill_attention, prefill_attention
from tessera.kernels.wide_attention import prefers_wide_attention, wide_attention
from tessera.model.linear import Linear
from tessera.model.rope import Rotation, Rotations


class AttentionPlan(ABC):
    """The positions of one step's decoder tokens, and the tokens that each sees."""

    positions_T: Tensor  # int64, the position of each token in its own sequence

    @abstractmethod
    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        """Compute causal attention for layer number `layer`; returns (T, N, K). May write a cache."""


class DensePlan(AttentionPlan):
    """Whole sequences laid end to end, each seeing itself only; nothing is cached."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.segments = Segments.of(lengths, lengths, torch.device(device))
        self.positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])

    def attend(self, layer: int, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
        return attend_segments(self.segments, queries_TNK, keys_TMK, values_TMK, causal=True)


class VisionPlan(ABC):
    """The images of one step: their grids in patches, and the rotation of their patches; each sees itself only."""

    def __init__(self, grids: Sequence[tuple[int, int]], rotation: Rotation) -> None:
        self.grids = list(grids)
        self.rotation = rotation
        self.rotations = Rotations(rotation, rotation)
        self.lengths = [rows * columns for rows, columns in grids]

    @abstractmethod
    def attend(self, queries_PNK: Tensor, keys_PNK: Tensor, values_PNK: Tensor) -> Tensor:
        """Compute attention of each image over its own patches; returns (P, N, K)."""


class DenseVisionPlan(VisionPlan):
    """Images of any sizes laid end to end; `in_8_bits` lets those of many patches be attended in 8 bits."""

    def __init__(self, grids: Sequence[tuple[int, int]], rotation: Rotation, *, in_8_bits: bool = False) -> None:
        super().__init__(grids, rotation)
        self.segments = Segments.of(self.lengths, self.lengths, rotation.cos.device)
        self.in_8_bits = in_8_bits

    def attend(self, queries_PNK: Tensor, keys_PNK: Tensor, values_PNK: Tensor) -> Tensor:
        images = queries_PNK, keys_PNK, values_PNK
        return attend_segments(self.segments, *images, causal=False, in_8_bits=self.in_8_bits)


def attend_segments(
    segments: Segments,
    queries_TNK: Tensor,
    keys_CMK: Tensor,
    values_CMK: Tensor,
    *,
    causal: bool,
    in_8_bits: bool = False,
) -> Tensor:
    """Compute attention of each segment of queries over its own context; returns (T, N, K)."""
    if prefers_flash(queries_TNK, keys_CMK, values_CMK):
        return flash_attention(queries_TNK, keys_CMK, values_CMK, segments, causal=causal)
    queries = queries_TNK.split(segments.lengths)
    keys, values = keys_CMK.split(segments.contexts), values_CMK.split(segments.contexts)
    attended = [
        int8_attention(*each) if in_8_bits and prefers_int8_attention(*each) else attend(*each, causal=causal)
        for each in zip(queries, keys, values, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def attend(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> Tensor:
    """Compute scaled dot-product attention of one sequence, (T, N, K); N/M query heads share a key/value head.

    With `causal` the T queries are the last of the L positions: query t sees the first L - T + t + 1.
    """
    if prefers_float32_gradients(queries_TNK, keys_LMK, values_LMK, causal=causal):
        return trained_attention(queries_TNK, keys_LMK, values_LMK, causal=causal)
    if prefers_prefill_attention(queries_TNK, keys_LMK, values_LMK):
        return prefill_attention(queries_TNK, keys_LMK, values_LMK, causal=causal)
    if not causal and prefers_wide_attention(queries_TNK, keys_LMK, values_LMK):
        return wide_attention(queries_TNK, keys_LMK, values_LMK)
    tokens, context = len(queries_TNK), len(keys_LMK)
    if tokens == 1:
        # The query heads that share a key/value head are rows of one product. Measured on two cores,
        # bf16, 8 sequences of 1000 tokens, 32/8 heads of 128: this 5 ms, expanding keys and values 30 ms.
        rows = queries_TNK[0].unflatten(0, (keys_LMK.shape[1], -1))
        return F.scaled_dot_product_attention(
            rows[None], keys_LMK.transpose(0, 1)[None], values_LMK.transpose(0, 1)[None]
        ).flatten(1, 2)
    group = queries_TNK.shape[1] // keys_LMK.shape[1]
    queries, keys, values = (x.transpose(0, 1)[None] for x in (queries_TNK, keys_LMK, values_LMK))
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    mask = None
    if causal and tokens < context:
        # Example: 2 new tokens after 3 earlier ones see [1 1 1 1 0] and [1 1 1 1 1].
        mask = torch.ones(tokens, context, dtype=torch.bool, device=queries.device).tril(context - tokens)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal and mask is None)
    return out[0].transpose(0, 1)


class Attention(nn.Module):
    """Grouped-query attention without biases; the same projections serve decoder and vision."""

    def __init__(self, width: int, n_heads: int, n_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.wq = Linear(width, n_heads * head_dim, bias=False)
        self.wk = Linear(width, n_kv_heads * head_dim, bias=False)
        self.wv = Linear(width, n_kv_heads * head_dim, bias=False)
        self.wo = Linear(n_heads * head_dim, width, bias=False)

    def project(self, hidden_TD: Tensor, rotations: Rotations) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries (T, N, K), rotated keys (T, M, K) and values (T, M, K)."""
        queries_TNK, keys_TMK, values_TMK = (
            linear(hidden_TD).unflatten(-1, (-1, self.head_dim)) for linear in (self.wq, self.wk, self.wv)
        )
        return rotate(queries_TNK, *rotations.queries), rotate(keys_TMK, *rotations.keys), values_TMK
