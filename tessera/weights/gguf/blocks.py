"""Converts GGUF's block formats to the packed layout: without loss if they fit, otherwise rounded to 8 bits.

A row is cut into blocks of 32 or 256 weights, each with scales and codes. Q4_0, Q4_1,
Q4_K, Q5_0, Q5_1, Q5_K, Q8_0 and IQ4_NL are codes of at most 8 bits with a scale (and minimum) for
each 32, so they keep every value. Formats with finer scales or larger tables (Q6_K, Q3_K and the
like) are dequantized by the gguf package and rounded to Q8_0. Layouts: ggml's `ggml-common.h`,
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h. It reads no files.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor

from tessera.kernels.packed_weight import GROUP_COLUMNS, SUPER_GROUPS, TILE_ROWS, PackedWeight, pack

Kind = GGMLQuantizationType
# Values that IQ4_NL's codes stand for, as quants.IQ4_NL.kvalues lists them.
IQ4_NL_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
PLAIN = {
    Kind.F64: torch.float64,
    Kind.F32: torch.float32,
    Kind.F16: torch.float16,
    Kind.BF16: torch.bfloat16,
}
FOUR_BITS = (Kind.Q4_0, Kind.Q4_1, Kind.Q4_K)  # held in 4 bits in the packed layout; all others take 8
# Rounded to 8 bits when read; the gguf package dequantizes them.
REQUANTIZED = (
    Kind.Q6_K,
    Kind.Q3_K,
    Kind.Q2_K,
    Kind.IQ4_XS,
    Kind.IQ3_S,
    Kind.IQ3_XXS,
    Kind.IQ2_S,
    Kind.IQ2_XS,
    Kind.IQ2_XXS,
    Kind.IQ1_M,
    Kind.IQ1_S,
)


def dequantize_rows(kind: Kind, blocks: Tensor) -> Tensor:
    """Dequantize rows of blocks, uint8 (N, bytes of a row), to float32 values (N, K), as the gguf package does."""
    if kind == Kind.Q6_K:
        return _dequantize_q6_k(blocks.unflatten(1, (-1, GGML_QUANT_SIZES[kind][1])))
    with np.errstate(invalid="ignore"):  # callers report a damaged file themselves
        return torch.from_numpy(quants.dequantize(blocks.numpy(), kind))


def quantize_rows(kind: Kind, values_NK: Tensor) -> Tensor:
    """Round float32 values to rows of blocks, uint8 (N, bytes of a row), as the gguf package does."""
    if kind == Kind.Q8_0:
        return _quantize_q8_0(values_NK)
    return torch.from_numpy(quants.quantize(values_NK.numpy(), kind))


def round_rows(kind: Kind, blocks: Tensor) -> tuple[Kind, Tensor]:
    """Return the kind and blocks to pack: the given ones, or 8-bit ones for REQUANTIZED."""
    if kind not in REQUANTIZED:
        return kind, blocks
    return Kind.Q8_0, quantize_rows(Kind.Q8_0, dequantize_rows(kind, blocks))


def pack_rows(kind: Kind, blocks: Tensor) -> PackedWeight:
    """Pack rows of blocks, uint8 (N, bytes of a row): the same values, except for REQUANTIZED."""
    kind, blocks = round_rows(kind, blocks)
    return REPACKED[kind](blocks.unflatten(1, (-1, GGML_QUANT_SIZES[kind][1])))


def packed_bytes(kind: Kind, rows: int, columns: int) -> int:
    """Return the bytes that `pack_rows` makes of a matrix, rows padded to tiles."""
    tile = torch.zeros(1, GGML_QUANT_SIZES[kind][1] * columns // GGML_QUANT_SIZES[kind][0], dtype=torch.uint8)
    return pack_rows(kind, tile).nbytes * -(-rows // TILE_ROWS)


def _pack_q4_0(blocks: Tensor) -> PackedWeight:
    return pack(_codes(_nibbles(blocks[..., 2:])), _halves(blocks, 0), bits=4)


def _pack_q4_1(blocks: Tensor) -> PackedWeight:
    return pack(_codes(_nibbles(blocks[..., 4:])), _halves(blocks, 0), _halves(blocks, 2), bits=4)


def _pack_q5_0(blocks: Tensor) -> PackedWeight:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return pack(_codes(codes + (128 - 16)), _halves(blocks, 0), bits=8)  # its codes are centred on 16


def _pack_q5_1(blocks: Tensor) -> PackedWeight:
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return pack(_codes(codes), _halves(blocks, 0), _halves(blocks, 2), bits=8)


def _pack_q8_0(blocks: Tensor) -> PackedWeight:
    return pack(_codes(blocks[..., 2:] ^ 128), _halves(blocks, 0), bits=8)  # -128..127 becomes 0..255


def _pack_iq4_nl(blocks: Tensor) -> PackedWeight:
    table = torch.tensor([value + 128 for value in IQ4_NL_VALUES], dtype=torch.uint8)
    return pack(table[_codes(_nibbles(blocks[..., 2:])).int()], _halves(blocks, 0), bits=8)


def _pack_q4_k(blocks: Tensor) -> PackedWeight:
    # 4 stretches of 32 bytes: the low halves are one group of 32 weights, the high halves the next.
    codes = _nibbles(blocks[..., 16:].unflatten(-1, (4, GROUP_COLUMNS)))
    return _pack_super(codes, blocks, bits=4)


def _pack_q5_k(blocks: Tensor) -> PackedWeight:
    low = _nibbles(blocks[..., 48:].unflatten(-1, (4, GROUP_COLUMNS))).unflatten(-1, (2, GROUP_COLUMNS)).flatten(-3, -2)
    # Bit g of byte c is the fifth bit of column c of group g.
    groups = torch.arange(SUPER_GROUPS, dtype=torch.uint8)[:, None]
    high = (blocks[..., None, 16:48] >> groups) & 1
    return _pack_super(low | (high << 4), blocks, bits=8)


def _pack_super(codes: Tensor, blocks: Tensor, bits: int) -> PackedWeight:
    """Q4_K and Q5_K: two super-scales, then 8 multipliers for scales and 8 for minimums of 6 bits each."""
    scales, minimums = _multipliers(blocks[..., 4:16])
    return pack(
        _codes(codes),
        scales.flatten(1),
        minimums.flatten(1),
        bits=bits,
        super_scales=_halves(blocks, 0),
        super_minimums=_halves(blocks, 2),
    )


REPACKED: dict[Kind, Callable[[Tensor], PackedWeight]] = {
    Kind.Q4_0: _pack_q4_0,
    Kind.Q4_1: _pack_q4_1,
    Kind.Q4_K: _pack_q4_k,
    Kind.Q5_0: _pack_q5_0,
    Kind.Q5_1: _pack_q5_1,
    Kind.Q5_K: _pack_q5_k,
    Kind.Q8_0: _pack_q8_0,
    Kind.IQ4_NL: _pack_iq4_nl,
}


# Q6_K and Q8_0 are a quarter of every common file: the same numbers in torch take a third of the package's time.
def _dequantize_q6_k(blocks: Tensor) -> Tensor:
    # Each half of a block is 4 groups of 32 weights: 64 bytes of lower and 32 bytes of upper bits.
    low = _nibbles(blocks[..., :128].unflatten(-1, (2, 64))).unflatten(-1, (4, 32))
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    high = (blocks[..., 128:192].unflatten(-1, (2, 1, 32)) >> shifts) & 3
    codes = (low | (high << 4)).flatten(-3).unflatten(-1, (16, 16)).float() - 32
    scales = _halves(blocks, 208).float()[..., None] * blocks[..., 192:208].contiguous().view(torch.int8).float()
    return _codes((scales[..., None] * codes).flatten(-2))


def _quantize_q8_0(values_NK: Tensor) -> Tensor:
    groups = values_NK.unflatten(1, (-1, GROUP_COLUMNS))
    scales = groups.abs().amax(-1, keepdim=True) / 127
    scaled = groups * torch.where(scales == 0, 0, 1 / scales)
    whole = scaled.to(torch.int8)
    codes = whole + (2 * (scaled - whole)).to(torch.int8)  # halves away from zero
    return torch.cat([scales.half().view(torch.uint8), codes.view(torch.uint8)], dim=-1).flatten(1)


def _nibbles(stretch: Tensor) -> Tensor:
    """Return the low halves of all bytes, then the high halves: [0x21, 0x43] becomes [1, 3, 2, 4]."""
    return torch.cat([stretch & 15, stretch >> 4], dim=-1)


def _fifth_bits(stretch: Tensor) -> Tensor:
    """Return bit j of 4 bytes, lowest first, as the fifth bit of code j: 0 or 16."""
    bits = torch.arange(8, dtype=torch.uint8)
    return ((stretch[..., None] >> bits) & 1).flatten(-2) << 4


def _multipliers(stretch: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack 12 bytes to 8 + 8 numbers of 6 bits.

    Bytes 0-3 hold scales 0-3 in their low 6 bits, bytes 4-7 minimums 0-3; bytes 8-11 the low 4 bits
    of scales and minimums 4-7, whose upper 2 bits are the upper 2 of bytes 0-3 and 4-7.
    """
    scales, minimums, low = stretch.split(4, dim=-1)
    return (
        torch.cat([scales & 63, (low & 15) | ((scales >> 6) << 4)], dim=-1),
        torch.cat([minimums & 63, (low >> 4) | ((minimums >> 6) << 4)], dim=-1),
    )


def _halves(blocks: Tensor, at: int) -> Tensor:
    """Return the float16 at byte `at` of each block: (N, blocks of a row)."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16).squeeze(-1)


def _codes(groups: Tensor) -> Tensor:
    return groups.flatten(1)
