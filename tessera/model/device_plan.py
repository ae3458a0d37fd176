"""The attention plan of a GPU: two calls a layer, whatever number of sequences is in the step.

The step's first rows are one new token each of decoding sequences, the rest several new tokens each
of sequences that are read in. Nothing of the decoding part depends on how long the sequences are but
the numbers in its tensors, so that a CUDA graph of it can be replayed. On a CPU it computes the same
by the kernels' twins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.flash_attention import Stretches
from tessera.kernels.paged_attention import decode_attention
from tessera.model.attention import AttentionPlan, attend_stretches


@dataclass(frozen=True)
class Decodes:
    """One new token in each of R sequences: it is the last of the first `lengths_R[r]` tokens in the blocks."""

    block_tables_RB: Tensor  # int32; beyond a sequence's blocks any block
    lengths_R: Tensor  # int32


@dataclass(frozen=True)
class Prefills:
    """Several new tokens in each of some sequences; `slots_C` are the slots of all that each sees, end to end."""

    stretches: Stretches
    slots_C: Tensor

    @property
    def are_whole(self) -> bool:
        """Whether the new tokens are all that is seen."""
        return self.stretches.lengths == self.stretches.contexts


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
            parts.append(attend_stretches(self.prefills.stretches, queries_TNK[start:], *context, causal=True))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
