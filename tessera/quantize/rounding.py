"""Rounds a matrix to codes: chooses a scale for each group of 32 columns and the nearest code of each weight.

The scale that maps a group's largest weight to the last of its 16 codes, or 8, is rarely the best.
Several are tried, each refined to the least squared error of its codes (in closed form), and the one
with the least error is used. It uses no inputs, files or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.packed_weight import (
    CENTRES,
    GROUP_COLUMNS,
    LEVELS,
    SUPER_GROUPS,
    TILE_ROWS,
    PackedWeight,
    pack,
)
from tessera.kernels.quantized_weight import QuantizedWeight, values_of

# What a group's largest weight is mapped to, of the centre on its side: beyond that it is clipped, which may pay off.
TRIED_SHARES = torch.linspace(5.5 / 8, 9 / 8, 15)
LARGEST_MULTIPLIER = 127  # of a super-scale
SUPER_ROOM = 1.25  # by which calibration's groups may exceed the largest scale that their weights alone would have
CACHED_WEIGHTS = 2**17  # weights whose scales are searched at a time: twice as fast as when the work exceeds the cache
PANEL_ROWS = 32 * TILE_ROWS  # rows rounded at a time
STEPS = torch.tensor(LEVELS, dtype=torch.float32) - CENTRES[3]
# The nearest code of 3 bits for each half step from the lowest level on.
NEAREST = torch.bucketize(
    torch.arange(2 * LEVELS[-1] + 1) / 2 + STEPS[0], (STEPS[1:] + STEPS[:-1]) / 2, right=True
).float()
BITS = {"int3": 3, "int4": 4, "int8": 8}  # of a packed scheme's codes


@dataclass(frozen=True)
class Grid:
    """The values of codes: value = scale * (code - centre), or the code's level; the groups' scales (..., G).

    They have float16 precision, or are whole multiples of `super_scales`, which have.
    """

    bits: int
    scales: Tensor
    super_scales: Tensor | None = None  # (..., G), equal for each eight groups

    def codes(self, values: Tensor) -> Tensor:
        """Return the nearest codes of values (..., G, I), as integers in float32."""
        scales = self.scales[..., None]
        steps = torch.where(scales == 0, 0, values / scales)
        if self.bits == 3:
            halves = steps.add_(CENTRES[3]).mul_(2).clamp_(0, len(NEAREST) - 1)  # the middles between levels are such
            return _looked_up(NEAREST, halves)
        centre = CENTRES[self.bits]
        return steps.round_().add_(centre).clamp_(0, 2 * centre - 1)

    def steps(self, codes: Tensor) -> Tensor:
        """Return the values of codes for a scale of one."""
        if self.bits == 3:
            return _looked_up(STEPS, codes)
        return codes - CENTRES[self.bits]

    def values(self, codes: Tensor) -> Tensor:
        return self.steps(codes) * self.scales[..., None]

    def on(self, super_scales: Tensor) -> Grid:
        """Return the grid with each scale rounded to a multiple of its super-scale."""
        multipliers = torch.where(super_scales == 0, 0, self.scales / super_scales).round()
        multipliers = multipliers.clamp(-LARGEST_MULTIPLIER, LARGEST_MULTIPLIER)
        return Grid(self.bits, multipliers * super_scales, super_scales)


def _looked_up(table: Tensor, places: Tensor) -> Tensor:
    """Return the table's numbers at places (..., G, I), float32; sixteen times as fast as a search of the levels."""
    return table.to(places.device).index_select(0, places.int().flatten()).view(places.shape)


def round_to(scheme: str, matrix_NK: Tensor) -> QuantizedWeight:
    """Quantize a matrix by a scheme of STORAGE, each weight to its nearest code."""
    if scheme == "fp8":
        return Fp8Weight(*quantize_fp8(matrix_NK))
    groups = matrix_NK.float().unflatten(-1, (-1, GROUP_COLUMNS))
    grid = fit(groups, BITS[scheme])
    if has_super_scales(grid.bits, matrix_NK.shape[1]):
        grid = grid.on(super_scales(grid.scales))
    return pack_grids(grid.codes(groups).to(torch.uint8).flatten(-2), [grid])


def pack_grids(codes_NK: Tensor, grids: Sequence[Grid]) -> PackedWeight:
    """Pack codes and their groups' grids, in order, each (N, some G), into one packed weight."""
    bits, scales_NG = grids[0].bits, torch.cat([grid.scales for grid in grids], dim=1)
    supers = [grid.super_scales for grid in grids if grid.super_scales is not None]
    if not supers:
        return pack(codes_NK, scales_NG.half(), bits=bits)
    supers_NG = torch.cat(supers, dim=1)
    multipliers_NG = torch.where(supers_NG == 0, 0, scales_NG / supers_NG).round().to(torch.int8)
    return pack(
        codes_NK,
        multipliers_NG.view(torch.uint8),
        bits=bits,
        super_scales=supers_NG[:, ::SUPER_GROUPS].half(),
    )


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
    return Grid(bits, torch.cat([_best_scales(part, bits) for part in groups.split(rows)]))


def has_super_scales(bits: int, columns: int) -> bool:
    """Return True if a matrix of so many columns is stored with super-scales."""
    return bits == 3 and columns % (GROUP_COLUMNS * SUPER_GROUPS) == 0


def super_scales(scales_NG: Tensor, room: float = 1.0) -> Tensor:
    """Return, for whole blocks of eight groups, the super-scale that reaches `room` times the largest scale, (N, G)."""
    largest = scales_NG.unflatten(-1, (-1, SUPER_GROUPS)).abs().amax(-1)
    return _half(largest * (room / LARGEST_MULTIPLIER)).repeat_interleave(SUPER_GROUPS, dim=-1)


def _best_scales(groups: Tensor, bits: int) -> Tensor:
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best = torch.full_like(extremes, torch.inf)
    scales = torch.zeros_like(extremes)
    for share in TRIED_SHARES.tolist():
        # The extreme is mapped to the codes below the centre, which reach further.
        plain = Grid(bits, extremes / (-CENTRES[bits] * share))
        steps = plain.steps(plain.codes(groups))
        norms = steps.square().sum(-1)
        tried = Grid(bits, _half(torch.where(norms == 0, 0, (groups * steps).sum(-1) / norms)))
        errors = (groups - tried.values(tried.codes(groups))).square().sum(-1)
        better = errors < best
        best, scales = torch.where(better, errors, best), torch.where(better, tried.scales, scales)
    return scales


def _half(values: Tensor) -> Tensor:
    """Round scales to the stored float16, so that codes are chosen for it."""
    return values.half().float()
