"""Random weights in few bits, made on the device, and which of a model's linears they stand in for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight, packs
from tessera.model.pixtral import Pixtral


def decoder_linears(model: Pixtral) -> Iterator[tuple[str, nn.Module]]:
    """The layers' linears, by name; embeddings, head and pictures stay as they are."""
    for name, module in list(model.named_modules()):
        if name.startswith("layers.") and name.endswith(("wq", "wk", "wv", "wo", "w1", "w2", "w3")):
            yield name, module


def random_packed(rows: int, columns: int, bits: int, device: torch.device) -> PackedWeight:
    """Random codes whose values are as large as a matrix of this width needs."""
    assert packs(rows, columns)
    tiles, groups = -(-rows // TILE_ROWS), columns // GROUP_COLUMNS
    codes = torch.randint(0, 256, (tiles, groups, 64 * bits), dtype=torch.uint8, device=device)
    scale = columns**-0.5 * 3.5 / (1 << bits)  # uniform codes spread over 0.29 of their range
    scales = torch.full((tiles, groups, TILE_ROWS), scale, dtype=torch.float16, device=device)
    return PackedWeight(bits, (rows, columns), codes, scales)


def random_fp8(rows: int, columns: int, device: torch.device) -> Fp8Weight:
    return Fp8Weight(*quantize_fp8(torch.randn(rows, columns, device=device)))
