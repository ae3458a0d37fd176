"""The paged key/value cache: each layer's keys and values in blocks of equal size.

It has no notion of requests: `blocks` assigns blocks to them. One extra block belongs to no request:
padding reads and writes it, so a sequence never touches another's leftovers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.kernels.cache_layer import CacheLayer, bytes_per_token
from tessera.model.config import ModelConfig


def kv_bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return one token's bytes of keys and values over all layers; Pixtral 12B: 160 KiB in bfloat16, 82.5 in int8."""
    return config.n_layers * bytes_per_token(config.n_kv_heads, config.head_dim, dtype)


class KVCache:
    """`layers` of num_blocks + 1 blocks."""

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_tokens = block_tokens
        self.padding_block = num_blocks
        self.padding_slot = num_blocks * block_tokens  # the first slot of that block
        self.layers = [
            CacheLayer.zeros(num_blocks + 1, block_tokens, config.n_kv_heads, config.head_dim, dtype, device)
            for _ in range(config.n_layers)
        ]

    def slots(self, blocks: Sequence[int], start: int, end: int) -> list[int]:
        """Return the slots of tokens `start` to `end` of a sequence that holds `blocks`, in order.

        Example: blocks of 16 tokens, blocks [7, 2], tokens 14 to 18: slots 126, 127, 32, 33.
        """
        size = self.block_tokens
        return [blocks[position // size] * size + position % size for position in range(start, end)]

    def table(self, blocks: Sequence[int], context: int) -> Tensor:
        """Return the blocks of the first `context` tokens, int32, on the CPU."""
        return torch.tensor(blocks[: -(-context // self.block_tokens)], dtype=torch.int32)
