"""Rounding tuned to the inputs: columns rounded later compensate for the errors of earlier ones.

The aim is not a small error E of the weights but of the products, the sum of |E x|^2 over the inputs
x that calibration saw: |E R|^2, where R R^T is their Gram matrix and R is upper triangular. Column j
of E R then depends on columns up to j alone, and each is rounded where it is smallest.
Source: GPTQ, arXiv 2210.17323, in the form of arXiv 2307.13304 (LDLQ), which needs no inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.kernels.packed_weight import GROUP_COLUMNS, SUPER_GROUPS, PackedWeight
from tessera.quantize.rounding import SUPER_ROOM, Grid, fit, has_super_scales, pack_grids, super_scales

DAMPING = 0.01  # of the Gram diagonal's mean, added to the diagonal: unseen inputs must keep some weight


def round_compensated(matrix_NK: Tensor, factor_KK: Tensor, bits: int) -> PackedWeight:
    """Round a matrix, group by group, to the best codes for inputs whose Gram matrix has this upper factor."""
    matrix_NK = matrix_NK.float()
    errors_NK = torch.zeros_like(matrix_NK)
    codes = torch.empty_like(matrix_NK, dtype=torch.uint8)
    grids: list[Grid] = []
    supers_NG = _super_scales(matrix_NK) if has_super_scales(bits, matrix_NK.shape[1]) else None
    for start in range(0, matrix_NK.shape[1], GROUP_COLUMNS):
        group = slice(start, start + GROUP_COLUMNS)
        weights_NI, square_II = matrix_NK[:, group], factor_KK[group, group]
        carried_NI = errors_NK[:, :start] @ factor_KK[:start, group]
        # The group's columns as they would be without rounding, which the grid must fit.
        free_NI = weights_NI + torch.linalg.solve_triangular(square_II, carried_NI, upper=True, left=False)
        grid = fit(free_NI[:, None], bits)
        if supers_NG is not None:
            grid = grid.on(supers_NG[:, len(grids), None])
        for column in range(GROUP_COLUMNS):
            before = errors_NK[:, start : start + column] @ square_II[:column, column]
            wanted_N = weights_NI[:, column] + (carried_NI[:, column] + before) / square_II[column, column]
            code_N = grid.codes(wanted_N[:, None, None])
            codes[:, start + column] = code_N[:, 0, 0]
            errors_NK[:, start + column] = weights_NI[:, column] - grid.values(code_N)[:, 0, 0]
        grids.append(grid)
    return pack_grids(codes, grids)


def _super_scales(matrix_NK: Tensor) -> Tensor:
    """Return the groups' super-scales (N, G), with room for the columns that compensation will have enlarged."""
    blocks = matrix_NK.split(GROUP_COLUMNS * SUPER_GROUPS, dim=1)
    scales = [fit(block.unflatten(-1, (-1, GROUP_COLUMNS)), 3).scales for block in blocks]
    return torch.cat([super_scales(each, SUPER_ROOM) for each in scales], dim=1)


def upper_factor(gram_KK: Tensor) -> Tensor:
    """Return the upper triangular R with R R^T the damped Gram matrix: its Cholesky factor, from the end."""
    damped = gram_KK.float().flip(0, 1)
    mean = float(damped.diagonal().mean())
    damped.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    factor_KK: Tensor = torch.linalg.cholesky(damped)
    return factor_KK.flip(0, 1)
