"""Rotary position embeddings: one dimension for the decoder, two for the vision encoder.

Channels are paired as in the official checkpoint, neighbours (2i, 2i+1); checkpoints that pair
(i, i + half) are permuted when they are read. kernels/elementwise rotates them. Angles are
computed from the positions of the step, so there is no table for a long context to overrun.
Sources: RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071; the two-dimensional form, Pixtral's technical report,
arXiv 2410.07073, section 2.1, with the released weights' order of frequencies (rows first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.model.config import ModelConfig, YarnConfig


class Rotation(NamedTuple):
    """Cosines and sines, (T, K/2) in float32, that rotate each channel pair (2i, 2i+1) of each token."""

    cos: Tensor
    sin: Tensor


class Rotations(NamedTuple):
    """The decoder's rotations in one step; they differ if queries are scaled by their position."""

    queries: Rotation
    keys: Rotation


def decoder_rotations(positions_T: Tensor, config: ModelConfig) -> Rotations:
    """Return the decoder's rotations of tokens at these positions.

    Pair i of a token at position p rotates by p * f_i, with f_i = theta^(-2i/K), which YaRN slows down. Query
    scaling (`QueryScaling`) is part of the queries' cosines and sines.
    """
    device, yarn = positions_T.device, config.yarn
    # Kept on CPUs only: on a GPU a graph that is captured may own the memory.
    compute = _frequencies if device.type == "cpu" else _frequencies.__wrapped__
    frequencies = compute(config.head_dim, config.rope_theta, yarn, device)
    temperature = 0.1 * math.log(yarn.factor) + 1 if yarn is not None and yarn.apply_scale else 1.0
    # float64 until the cosine: at position 131,071 a float32 angle is off by 0.004 radians.
    keys = _rotation(positions_T.double()[:, None] * frequencies, temperature)
    if (scaling := config.llama_4_scaling) is None:
        return Rotations(keys, keys)
    turns_T = (positions_T // scaling.original_max_position_embeddings).float()
    scales_T = 1 + scaling.beta * torch.log1p(turns_T)
    return Rotations(Rotation(keys.cos * scales_T[:, None], keys.sin * scales_T[:, None]), keys)


@lru_cache(maxsize=16)
def _frequencies(head_dim: int, theta: float, yarn: YarnConfig | None, device: torch.device) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device)
    frequencies = theta ** -(exponents / head_dim)
    return frequencies if yarn is None else _slowed(frequencies, theta, yarn)


def _slowed(frequencies: Tensor, theta: float, yarn: YarnConfig) -> Tensor:
    """Return YaRN's frequencies: fast pairs unchanged, slow ones divided by the factor, a ramp between them.

    The ramp's ends are the pairs that turn beta and alpha times within the original context, rounded outwards.
    """
    num_pairs = len(frequencies)

    def pair_of(turns: float) -> float:
        return num_pairs * math.log(yarn.original_max_position_embeddings / (turns * math.tau)) / math.log(theta)

    first, last = max(math.floor(pair_of(yarn.beta)), 0), min(math.ceil(pair_of(yarn.alpha)), 2 * num_pairs - 1)
    width = last - first or 0.001  # as the released code has it, for a ramp that is a step
    pairs = torch.arange(num_pairs, dtype=torch.float64, device=frequencies.device)
    ramp = ((pairs - first) / width).clamp(0, 1)
    return frequencies * (1 - ramp + ramp / yarn.factor)


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


def _rotation(angles: Tensor, temperature: float = 1.0) -> Rotation:
    return Rotation((angles.cos() * temperature).float(), (angles.sin() * temperature).float())
