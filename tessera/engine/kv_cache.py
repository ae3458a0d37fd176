"""The paged key/value cache: one pair of tensors per layer, cut into blocks of equal size.

It knows no requests: `blocks` decides whose a block is. One block more than usable is kept, always
zero: padding reads it, so a sequence never touches what another one left behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.model.config import ModelConfig


def kv_bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token over all layers; Pixtral 12B in bf16: 160 KiB."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


class KVCache:
    """`keys_BSMK[layer]` and `values_BSMK[layer]`, B = num_blocks + 1."""

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_tokens = block_tokens
        self.padding_slot = num_blocks * block_tokens  # the first slot of the block that stays zero
        shape = (num_blocks + 1, block_tokens, config.n_kv_heads, config.head_dim)
        # Zeros, not empty: a system gives zeroed pages only when they are first written, so an
        # unused cache costs no memory on a CPU.
        self.keys_BSMK = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.values_BSMK = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]

    def slots(self, blocks: list[int], length: int) -> Tensor:
        """Slots (length,) of the first tokens of a sequence that owns `blocks`, in order; on the CPU.

        Example: blocks of 16 tokens, blocks [7, 2], 18 tokens: slots 112 to 127, 32, 33.
        """
        offsets = torch.arange(self.block_tokens)
        return (torch.tensor(blocks)[:, None] * self.block_tokens + offsets).flatten()[:length]
