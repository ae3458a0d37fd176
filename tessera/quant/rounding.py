"""A matrix to codes: which scale (and minimum) each group of 32 columns gets, and the nearest code of each weight.

The scale that takes a group's largest weight to the last code is rarely the best. Several are tried,
each then moved to where the squared error of its codes is least (a line through codes and weights,
in closed form), and the one with the least error is taken. Knows no files, inputs or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels.fp8_linear import Fp8Weight, dequantize_fp8, quantize_fp8
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight, dequantize, pack

# Codes that the largest weight of a group is taken to, of 8 on its side: beyond 8 it is clipped, which may pay.
TRIED_CODES = torch.linspace(5.5, 9.0, 15)
# Shares of a group's range that its 16 codes are spread over.
TRIED_SHARES = torch.linspace(0.7, 1.0, 10)
PANEL_WEIGHTS = 2**22  # weights that are rounded at a time: what it needs beside the matrix
PANEL_ROWS = 64 * TILE_ROWS
QuantizedWeight = PackedWeight | Fp8Weight


@dataclass(frozen=True)
class Grid:
    """What the codes of groups stand for, in float32 of float16 precision: value = scale * code + offset.

    Both are (..., G); `offsets` are the groups' minimums, or follow from the scales when codes are centred.
    """

    bits: int
    scales: Tensor
    minimums: Tensor | None

    @property
    def offsets(self) -> Tensor:
        return self.scales * -(1 << (self.bits - 1)) if self.minimums is None else self.minimums

    def codes(self, values: Tensor) -> Tensor:
        """The nearest codes of values (..., G, I), as whole numbers in float32."""
        return _codes(values, self.scales, self.offsets, self.bits)

    def values(self, codes: Tensor) -> Tensor:
        return codes * self.scales[..., None] + self.offsets[..., None]


def round_to(scheme: str, matrix_NK: Tensor) -> QuantizedWeight:
    """The matrix by a scheme: "int4", "int4_min" (with minimums), "int8" or "fp8"; each weight to its nearest code."""
    panels = matrix_NK.split(max(1, PANEL_WEIGHTS // matrix_NK.shape[1]))
    if scheme == "fp8":
        values, scales = zip(*(quantize_fp8(panel) for panel in panels), strict=True)
        return Fp8Weight(torch.cat(values), torch.cat(scales))
    bits, with_minimums = (8 if scheme == "int8" else 4), scheme == "int4_min"
    codes, grids = [], []
    for panel in panels:
        groups = panel.float().unflatten(-1, (-1, GROUP_COLUMNS))
        grids.append(fit(groups, bits, with_minimums))
        codes.append(grids[-1].codes(groups).to(torch.uint8).flatten(-2))
    return pack_grids(torch.cat(codes), grids)


def pack_grids(codes_NK: Tensor, grids: Sequence[Grid]) -> PackedWeight:
    """Codes of panels of rows, whose grids are (rows, G), as one packed weight."""
    minimums = [grid.minimums.half() for grid in grids if grid.minimums is not None]
    scales = torch.cat([grid.scales.half() for grid in grids])
    return pack(codes_NK, scales, torch.cat(minimums) if minimums else None, bits=grids[0].bits)


def weight_error(matrix_NK: Tensor, weight: QuantizedWeight) -> float:
    """The size of what rounding changed, relative to the matrix's own (in the Frobenius norm)."""
    changed = total = 0.0
    for start in range(0, len(matrix_NK), PANEL_ROWS):
        panel = matrix_NK[start : start + PANEL_ROWS].float()
        changed += float((values_of(weight, start, start + len(panel)) - panel).square().sum())
        total += float(panel.square().sum())
    return math.sqrt(changed / total) if total else 0.0


def values_of(weight: QuantizedWeight, start: int, stop: int) -> Tensor:
    """Rows of the matrix that a quantized weight stands for, in float32; `start` is a multiple of a tile's rows."""
    if isinstance(weight, Fp8Weight):
        return dequantize_fp8(Fp8Weight(weight.values[start:stop], weight.scales[start:stop]))
    return dequantize(weight.tiles(start // TILE_ROWS, -(-stop // TILE_ROWS)))


def fit(groups: Tensor, bits: int, with_minimums: bool) -> Grid:
    """The grid of least squared error that was found for groups (..., G, I) of weights."""
    if bits == 8:
        return Grid(8, _half(groups.abs().amax(-1) / 127), None)
    return _fit_minimums(groups) if with_minimums else _fit_centred(groups)


def _fit_centred(groups: Tensor) -> Grid:
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best = torch.full_like(extremes, torch.inf)
    scales = torch.zeros_like(extremes)
    for code in TRIED_CODES:
        tried = extremes / -code  # the side of -8 has one code more than the other
        centred = _codes(groups, tried, tried * -8, 4) - 8
        tried = _half(_divided((groups * centred).sum(-1), centred.square().sum(-1)))
        errors = (groups - Grid(4, tried, None).values(_codes(groups, tried, tried * -8, 4))).square().sum(-1)
        better = errors < best
        best, scales = torch.where(better, errors, best), torch.where(better, tried, scales)
    return Grid(4, scales, None)


def _fit_minimums(groups: Tensor) -> Grid:
    lowest, highest = groups.amin(-1), groups.amax(-1)
    middle, best = (lowest + highest) / 2, torch.full_like(lowest, torch.inf)
    scales, minimums = torch.zeros_like(lowest), torch.zeros_like(lowest)
    for share in TRIED_SHARES:
        tried = (highest - lowest) * share / 15
        offsets = middle - tried * 7.5
        codes = _codes(groups, tried, offsets, 4)
        mean, code_mean = groups.mean(-1), codes.mean(-1)
        spread = codes - code_mean[..., None]
        tried = _half(_divided((groups * spread).sum(-1), spread.square().sum(-1)))
        offsets = _half(mean - tried * code_mean)
        errors = (groups - Grid(4, tried, offsets).values(_codes(groups, tried, offsets, 4))).square().sum(-1)
        better = errors < best
        best = torch.where(better, errors, best)
        scales, minimums = torch.where(better, tried, scales), torch.where(better, offsets, minimums)
    return Grid(4, scales, minimums)


def _codes(values: Tensor, scales: Tensor, offsets: Tensor, bits: int) -> Tensor:
    steps = _divided(values - offsets[..., None], scales[..., None])
    return steps.round_().clamp_(0, (1 << bits) - 1)


def _divided(values: Tensor, by: Tensor) -> Tensor:
    return torch.where(by == 0, 0, values / by)


def _half(values: Tensor) -> Tensor:
    """Rounded to the float16 that is stored, so that codes are chosen for it."""
    return values.half().float()
