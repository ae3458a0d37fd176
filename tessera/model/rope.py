"""Rotary position embeddings: one dimension for the decoder, two for the vision encoder.

Channels are paired as in the official checkpoint, neighbours (2i, 2i+1); checkpoints that pair
(i, i + half) are permuted when they are read. kernels/elementwise rotates them. Angles are
computed from the positions of the step, so there is no table for a long context to overrun.
Sources: RoFormer, arXiv 2104.09864; the two-dimensional form, Pixtral's technical report,
arXiv 2410.07073, section 2.1, with the released weights' order of frequencies (rows first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines, (T, K/2) in float32, that rotate each channel pair (2i, 2i+1) of each token."""

    cos: Tensor
    sin: Tensor


def rotation_1d(positions_T: Tensor, head_dim: int, theta: float) -> Rotation:
    """Return the decoder's rotation: pair i of a token at position p rotates by p * theta^(-2i/K)."""
    # float64 until the cosine: at position 131,071 a float32 angle is off by 0.004 radians.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions_T.device)
    frequencies = theta ** -(exponents / head_dim)
    return _rotation(positions_T.double()[:, None] * frequencies)


def rotation_2d(grids: Sequence[tuple[int, int]], head_dim: int, theta: float, device: torch.device) -> Rotation:
    """Return the vision encoder's rotation for the patches of all images, each in row-major order.

    Of the K/2 frequencies f_i = theta^(-2i/K) the even-numbered rotate the first half of the pairs
    by the patch's row, the odd-numbered the second half by its column, both within its own image.
    Example: K = 8, a patch at row 2, column 3: angles 2 f_0, 2 f_2, 3 f_1, 3 f_3.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device)
    frequencies = theta ** -(exponents / head_dim)
    rows_P = torch.cat([torch.arange(rows, device=device).repeat_interleave(columns) for rows, columns in grids])
    columns_P = torch.cat([torch.arange(columns, device=device).repeat(rows) for rows, columns in grids])
    by_row = rows_P.double()[:, None] * frequencies[0::2]
    by_column = columns_P.double()[:, None] * frequencies[1::2]
    return _rotation(torch.cat([by_row, by_column], dim=-1))


def _rotation(angles: Tensor) -> Rotation:
    return Rotation(angles.cos().float(), angles.sin().float())
