"""Rounds a matrix to codes: chooses a scale for each group of 32 columns and the nearest code of each weight.

The scale that maps a group's largest weight to the last of its 16 codes is rarely the best. Several
are tried, each refined to the least squared error of its codes (in closed form), and the one with
the least error is used. It uses no inputs, files or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight, pack
from tessera.kernels.quantized_weight import QuantizedWeight, values_of

# Codes to which a group's largest weight is mapped, of 8 on its side: beyond 8 it is clipped, which may pay off.
TRIED_CODES = torch.linspace(5.5, 9.0, 15)
CACHED_WEIGHTS = 2**17  # weights whose scales are searched at a time: twice as fast as when the work exceeds the cache
PANEL_ROWS = 32 * TILE_ROWS  # rows rounded at a time


@dataclass(frozen=True)
class Grid:
    """The values of codes: value = scale * (code - centre); the groups' scales (..., G) have float16 precision."""

    bits: int
    scales: Tensor

    @property
    def centre(self) -> int:
        return 1 << (self.bits - 1)

    def codes(self, values: Tensor) -> Tensor:
        """Return the nearest codes of values (..., G, I), as integers in float32."""
        scales = self.scales[..., None]
        steps = torch.where(scales == 0, 0, values / scales)
        return steps.round_().add_(self.centre).clamp_(0, 2 * self.centre - 1)

    def values(self, codes: Tensor) -> Tensor:
        return (codes - self.centre) * self.scales[..., None]


def round_to(scheme: str, matrix_NK: Tensor) -> QuantizedWeight:
    """Quantize a matrix by a scheme, "int4", "int8" or "fp8", each weight to its nearest code."""
    if scheme == "fp8":
        return Fp8Weight(*quantize_fp8(matrix_NK))
    groups = matrix_NK.float().unflatten(-1, (-1, GROUP_COLUMNS))
    grid = fit(groups, 8 if scheme == "int8" else 4)
    return pack_grids(grid.codes(groups).to(torch.uint8).flatten(-2), [grid])


def pack_grids(codes_NK: Tensor, grids: Sequence[Grid]) -> PackedWeight:
    """Pack codes and their groups' grids, in order, each (N, some G), into one packed weight."""
    scales = torch.cat([grid.scales for grid in grids], dim=1)
    return pack(codes_NK, scales.half(), bits=grids[0].bits)


class ErrorSum:
    """Relative error of a rounded matrix, or of its products with known inputs, summed over its rows."""

    def __init__(self, gram_KK: Tensor | None = None) -> None:
        """With the Gram matrix of inputs, the sum of x x^T, the error is that of the products."""
        self._gram_KK = gram_KK
        self._changed = self._total = 0.0

    def add(self, rows_NK: Tensor, weight: QuantizedWeight) -> None:
        rows_NK = rows_NK.float()
        self._changed += self._size(values_of(weight) - rows_NK)
        self._total += self._size(rows_NK)

    @property
    def relative(self) -> float:
        """Return the root of the error's squared sum over the original's."""
        return math.sqrt(self._changed / self._total) if self._total > 0 else 0.0

    def _size(self, rows_NK: Tensor) -> float:
        weighted = rows_NK if self._gram_KK is None else rows_NK @ self._gram_KK
        return max(float((weighted * rows_NK).sum()), 0.0)


def fit(groups: Tensor, bits: int) -> Grid:
    """Return the grid of least squared error found for groups (..., G, I) of weights."""
    if bits == 8:
        return Grid(8, _half(groups.abs().amax(-1) / 127))
    rows = max(1, CACHED_WEIGHTS // groups[0].numel())
    return Grid(4, torch.cat([_best_scales(part) for part in groups.split(rows)]))


def _best_scales(groups: Tensor) -> Tensor:
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best = torch.full_like(extremes, torch.inf)
    scales = torch.zeros_like(extremes)
    for code in TRIED_CODES.tolist():
        # The extreme is mapped to the codes below the centre, of which there is one more.
        steps = Grid(4, extremes / -code).codes(groups) - 8
        norms = steps.square().sum(-1)
        tried = Grid(4, _half(torch.where(norms == 0, 0, (groups * steps).sum(-1) / norms)))
        errors = (groups - tried.values(tried.codes(groups))).square().sum(-1)
        better = errors < best
        best, scales = torch.where(better, errors, best), torch.where(better, tried.scales, scales)
    return scales


def _half(values: Tensor) -> Tensor:
    """Round scales to the stored float16, so that codes are chosen for it."""
    return values.half().float()
