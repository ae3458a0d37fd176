"""One layer's keys and values in blocks of slots: plain, or in 8 bits with a scale for each token and head.

The 8-bit form: code = round(value / scale), scale = the largest magnitude of the token's head / 127, so that a
value comes back within half a scale. One scale for a row of 128 channels suffices at 8 bits; finer grids
(arXiv 2402.02750) pay off at 2 to 4 bits. This module knows nothing of sequences and requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tessera.kernels import cuda

LARGEST_CODE = 127
ALIGNMENT = 64  # bytes, as torch's own memory


@dataclass(frozen=True)
class CacheLayer:
    """(B, S, M, K) keys and values; int8 has scales in float32, (B, S, M), and other dtypes have none."""

    keys_BSMK: Tensor
    values_BSMK: Tensor
    key_scales_BSM: Tensor | None = None
    value_scales_BSM: Tensor | None = None

    @classmethod
    def zeros(
        cls, blocks: int, block_tokens: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> CacheLayer:
        """Return a cache of zeros; on a CPU its memory is taken only as tokens are written."""
        shape = (blocks, block_tokens, kv_heads, head_dim)
        keys, values = (_zeros(shape, dtype, device) for _ in range(2))
        if dtype != torch.int8:
            return cls(keys, values)
        return cls(keys, values, *(_zeros(shape[:3], torch.float32, device) for _ in range(2)))

    @property
    def block_tokens(self) -> int:
        return self.keys_BSMK.shape[1]

    @property
    def is_exact(self) -> bool:
        """Return True if `read` returns exactly what was written."""
        return self.key_scales_BSM is None

    def write(self, slots_T: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> None:
        """Store the tokens' keys and values; slot = block * S + offset."""
        if cuda.serves(keys_TMK, values_TMK):
            from tessera.kernels.triton_elementwise import store

            store(
                keys_TMK,
                values_TMK,
                slots_T,
                self.keys_BSMK,
                self.values_BSMK,
                self.key_scales_BSM,
                self.value_scales_BSM,
            )
            return
        for cache_BSMK, scales_BSM, rows_TMK in (
            (self.keys_BSMK, self.key_scales_BSM, keys_TMK),
            (self.values_BSMK, self.value_scales_BSM, values_TMK),
        ):
            if scales_BSM is None:
                cache_BSMK.flatten(0, 1).index_copy_(0, slots_T, rows_TMK)
            else:
                codes_TMK, scales_TM = quantize_rows(rows_TMK)
                cache_BSMK.flatten(0, 1).index_copy_(0, slots_T, codes_TMK)
                scales_BSM.flatten(0, 1).index_copy_(0, slots_T, scales_TM)

    def read(self, slots_C: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return copies of some slots' keys and values (C, M, K) in `dtype`."""
        return (
            _read(self.keys_BSMK, self.key_scales_BSM, slots_C, dtype),
            _read(self.values_BSMK, self.value_scales_BSM, slots_C, dtype),
        )

    def heads(self, start: int, stop: int) -> CacheLayer:
        """Return a view of some of the cache's key/value heads."""
        scales = (self.key_scales_BSM, self.value_scales_BSM)
        return CacheLayer(
            self.keys_BSMK[:, :, start:stop],
            self.values_BSMK[:, :, start:stop],
            *(None if each is None else each[:, :, start:stop] for each in scales),
        )

    def slots(self, blocks: Tensor, length: int) -> Tensor:
        """Return the slots of the first `length` tokens in `blocks`, in order."""
        offsets = torch.arange(self.block_tokens, device=blocks.device)
        return (blocks[:, None] * self.block_tokens + offsets).flatten()[:length]


def bytes_per_token(kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Return one token's bytes in one layer; Pixtral 12B in bfloat16: 4096, in int8: 2112."""
    scale_bytes = torch.float32.itemsize if dtype == torch.int8 else 0
    return 2 * kv_heads * (head_dim * dtype.itemsize + scale_bytes)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes (..., K) and float32 scales (...) of rows (..., K); a row of zeros has the scale 0."""
    numbers = rows.float()
    scales = numbers.abs().amax(-1) / LARGEST_CODE
    return (numbers / scales.where(scales > 0, 1)[..., None]).round().to(torch.int8), scales


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros whose pages, on a CPU, the system provides when they are first written.

    torch.zeros writes them all: 1 GB and a second before nano's first answer. NumPy's come from calloc.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    raw = torch.from_numpy(np.zeros(size + ALIGNMENT, np.uint8))
    return raw[-raw.data_ptr() % ALIGNMENT :][:size].view(dtype).view(shape)


def _read(cache_BSMK: Tensor, scales_BSM: Tensor | None, slots_C: Tensor, dtype: torch.dtype) -> Tensor:
    rows_CMK = cache_BSMK.flatten(0, 1).index_select(0, slots_C)
    if scales_BSM is None:
        return rows_CMK.to(dtype)
    scales_CM = scales_BSM.flatten(0, 1).index_select(0, slots_C)
    return (rows_CMK * scales_CM[..., None]).to(dtype)
