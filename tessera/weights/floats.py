"""Matrices stored as 8-bit floats with scales, read as bfloat16 for layouts and roundings that start from 16 bits.

Ministral 3 is published so. Each number times its scale is computed in float32, as the loader does, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels.fp8_linear import Fp8Weight, dequantize_fp8
from tessera.weights.safetensors import StoredTensor
from tessera.weights.source import not_finite

PANEL_WEIGHTS = 2**22  # dequantized at a time: 16 MB in float32


@dataclass(frozen=True)
class StoredFloats(StoredTensor):
    """A matrix (N, K) of float8_e4m3fn with a scale for each row or one for all, which reads as `dtype`."""

    numbers: StoredTensor
    scales: StoredTensor

    @classmethod
    def of(cls, name: str, numbers: StoredTensor, scales: StoredTensor) -> StoredFloats:
        return cls(name, numbers.file, torch.bfloat16, numbers.shape, numbers.start, numbers, scales)

    def row_scales(self) -> Tensor:
        """Return the float32 scale of each row (N); raises CheckpointError if one is no number."""
        scales = self.scales.read().float()
        if not scales.isfinite().all():
            raise not_finite(self.file, self.name)
        return scales.flatten().expand(self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        return dequantize_fp8(Fp8Weight(self.numbers.rows(start, stop), self.row_scales()[start:stop]), self.dtype)

    def read_into(self, tensor: Tensor) -> None:
        for start, panel_NK in self._panels():
            tensor[start : start + len(panel_NK)].copy_(panel_NK)

    def first_bytes(self, count: int) -> bytes:
        """Read the first bytes as stored, which identify the file."""
        return self.numbers.first_bytes(count)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the matrix in bfloat16."""
        for _, panel_NK in self._panels():
            yield panel_NK.view(torch.uint8).numpy().tobytes()

    def _panels(self) -> Iterator[tuple[int, Tensor]]:
        """Yield first row and values of panels of rows."""
        step = max(PANEL_WEIGHTS // self.shape[1], 1)
        for start in range(0, self.shape[0], step):
            yield start, self.rows(start, min(start + step, self.shape[0]))
