"""Products with packed weights in Triton, for GPUs: three kernels for three numbers of rows.

One to four rows are bound by reading the codes once: each program keeps 16 outputs' sums in its
registers while the codes stream by, and nothing is rounded below float32. Up to 64 rows use the
matrix units: all codes at one place of a 32-bit word belong to the same columns of their groups, so
the places are multiplied one after the other and no code is moved.
More rows are bound by arithmetic: panels are dequantized to the inputs' dtype for the library's
own product. Codes become floats by filling in the mantissa of 2^23, which avoids the conversion
that a GPU does at a quarter of its rate. The twin is `packed_linear.linear_twin`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tessera.kernels.packed_weight import TILE_ROWS, PackedWeight

MAX_VECTOR_ROWS = 4
MAX_MATRIX_ROWS = 64
# Words of each row that a program of one token takes at a time, 8 KiB in all; fewer for more tokens, whose sums
# would not fit into the registers.
VECTOR_WORDS = 128
MATRIX_GROUPS = {4: 8, 8: 4}  # 32 words of each row, the depth of one product
MATRIX_TILES = 2
PANEL_NUMBERS = 2**26  # of a dequantized panel: 128 MiB in bfloat16


@triton.jit
def _code_values(words, place: tl.constexpr, bits: tl.constexpr):
    """Return the code at one place of each 32-bit word, as float32.

    Place p of 4-bit codes is bits 4p to 4p + 3; the float 2^23 with the code in its lowest bits is 2^23 + code.
    """
    code = (words >> (place * bits)) & ((1 << bits) - 1)
    return (code | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def _group_values(
    scales, minimums, super_scales, super_minimums, at, super_at, mask, bits: tl.constexpr, kind: tl.constexpr
):
    """Scale and offset, float32: value = scale * code + offset. Kinds as in `_kind`."""
    scale = tl.load(scales + at, mask=mask, other=0).to(tl.float32)
    if kind == 2:
        scale *= tl.load(super_scales + super_at, mask=mask, other=0.0).to(tl.float32)
        offset = -tl.load(minimums + at, mask=mask, other=0).to(tl.float32)
        offset *= tl.load(super_minimums + super_at, mask=mask, other=0.0).to(tl.float32)
    elif kind == 1:
        offset = tl.load(minimums + at, mask=mask, other=0.0).to(tl.float32)
    else:
        offset = scale * -(1 << (bits - 1))
    return scale, offset


@triton.jit
def _vector_product(
    inputs,
    words,
    scales,
    minimums,
    super_scales,
    super_minimums,
    out,
    tokens,
    rows,
    groups,
    bits: tl.constexpr,
    kind: tl.constexpr,
    padded_tokens: tl.constexpr,
    step_groups: tl.constexpr,
):
    """Compute one tile of 16 outputs for all tokens; every word is read once."""
    tile = tl.program_id(0)
    group_at = tl.arange(0, step_groups)[:, None, None]
    word_at = tl.arange(0, bits)[None, :, None]  # a row has as many words in a group as a code has bits
    row_at = tl.arange(0, 16)[None, None, :]
    sums = tl.zeros([padded_tokens, step_groups, bits, 16], tl.float32)
    token_at = tl.arange(0, padded_tokens)[:, None, None, None]
    for start in range(0, groups, step_groups):
        group = start + group_at
        mask = group < groups
        word = tl.load(words + ((tile * groups + group) * bits + word_at) * 16 + row_at, mask=mask, other=0)
        at = (tile * groups + group) * 16 + row_at
        super_at = (tile * (groups // 8) + group // 8) * 16 + row_at
        scale, offset = _group_values(scales, minimums, super_scales, super_minimums, at, super_at, mask, bits, kind)
        products = tl.zeros([padded_tokens, step_groups, bits, 16], tl.float32)
        totals = tl.zeros([padded_tokens, step_groups, bits, 1], tl.float32)
        column = group * 32 + 4 * word_at
        for place in tl.static_range(32 // bits):
            # Word j of a group holds at this place the code of column 4 * j + `first`.
            first = 16 * (place % 2) + place // 2 if bits == 4 else place
            given = tl.load(
                inputs + (token_at * groups * 32 + (column + first)[None]),
                mask=mask[None] & (token_at < tokens),
                other=0.0,
            ).to(tl.float32)
            products += given * _code_values(word, place, bits)[None]
            totals += given
        sums += products * scale[None] + totals * offset[None]
    result = tl.sum(tl.sum(sums, 2), 1)
    token, row = tl.arange(0, padded_tokens)[:, None], tile * 16 + tl.arange(0, 16)[None, :]
    tl.store(out + token * rows + row, result.to(out.dtype.element_ty), mask=(token < tokens) & (row < rows))


@triton.jit
def _matrix_product(
    inputs,
    words,
    scales,
    minimums,
    super_scales,
    super_minimums,
    out,
    tokens,
    rows,
    groups,
    tiles,
    bits: tl.constexpr,
    kind: tl.constexpr,
    padded_tokens: tl.constexpr,
    step_groups: tl.constexpr,
    step_tiles: tl.constexpr,
    precision: tl.constexpr,
):
    """Compute `step_tiles` tiles of outputs for up to `padded_tokens` tokens, whose inputs are ordered by place."""
    depth: tl.constexpr = step_groups * bits
    places: tl.constexpr = 32 // bits
    width: tl.constexpr = step_tiles * 16
    token = tl.arange(0, padded_tokens)
    row = tl.program_id(0) * width + tl.arange(0, width)
    tile, within = row // 16, row % 16
    step = tl.arange(0, depth)
    sums = tl.zeros([padded_tokens, width], tl.float32)
    for start in range(0, groups, step_groups):
        group, word_at = start + step // bits, step % bits
        mask = (group < groups)[:, None] & (tile < tiles)[None, :]
        stretch = tile[None, :] * groups + group[:, None]
        word = tl.load(words + (stretch * bits + word_at[:, None]) * 16 + within[None, :], mask=mask, other=0)
        super_at = (tile[None, :] * (groups // 8) + (group // 8)[:, None]) * 16 + within[None, :]
        scale, offset = _group_values(
            scales, minimums, super_scales, super_minimums, stretch * 16 + within[None, :], super_at, mask, bits, kind
        )
        given_mask = (token < tokens)[:, None] & (group < groups)[None, :]
        for place in tl.static_range(places):
            given_at = (token[:, None] * places + place) * groups * bits + (start * bits + step)[None, :]
            given = tl.load(inputs + given_at, mask=given_mask, other=0.0)
            weight = _code_values(word, place, bits) * scale + offset
            sums = tl.dot(given, weight.to(given.dtype), sums, input_precision=precision)
    place_out = token[:, None] * rows + row[None, :]
    tl.store(out + place_out, sums.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (row < rows)[None, :])


@triton.jit
def _dequantize(
    words,
    scales,
    minimums,
    super_scales,
    super_minimums,
    out,
    rows,
    groups,
    bits: tl.constexpr,
    kind: tl.constexpr,
    step_groups: tl.constexpr,
):
    """Dequantize one tile's 16 rows and `step_groups` groups of columns, written row by row."""
    tile = tl.program_id(0)
    group_at = tl.program_id(1) * step_groups + tl.arange(0, step_groups)[:, None, None]
    word_at, row_at = tl.arange(0, bits)[None, :, None], tl.arange(0, 16)[None, None, :]
    mask = group_at < groups
    word = tl.load(words + ((tile * groups + group_at) * bits + word_at) * 16 + row_at, mask=mask, other=0)
    at = (tile * groups + group_at) * 16 + row_at
    super_at = (tile * (groups // 8) + group_at // 8) * 16 + row_at
    scale, offset = _group_values(scales, minimums, super_scales, super_minimums, at, super_at, mask, bits, kind)
    # The four columns 4 * j to 4 * j + 3 of word j lie side by side; at 4 bits its other four are 16 further.
    stride: tl.constexpr = 2 if bits == 4 else 1
    for half in tl.static_range(stride):
        first = _code_values(word, half, bits) * scale + offset
        second = _code_values(word, half + stride, bits) * scale + offset
        third = _code_values(word, half + 2 * stride, bits) * scale + offset
        fourth = _code_values(word, half + 3 * stride, bits) * scale + offset
        # (groups, words, rows, 2, 2): column 2 * x + y of the last two axes.
        four = tl.join(tl.join(first, third), tl.join(second, fourth))
        values = tl.reshape(tl.permute(four, (2, 0, 1, 3, 4)), (16, step_groups, bits, 4))
        row = tl.arange(0, 16)[:, None, None, None]
        group = tl.program_id(1) * step_groups + tl.arange(0, step_groups)[None, :, None, None]
        column = group * 32 + 16 * half + 4 * tl.arange(0, bits)[None, None, :, None]
        column = column + tl.arange(0, 4)[None, None, None, :]
        place = (tile * 16 + row).to(tl.int64) * groups * 32 + column
        tl.store(out + place, values.to(out.dtype.element_ty), mask=(tile * 16 + row < rows) & (group < groups))


def packed_linear(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply inputs (T, K) by the weight's transpose: (T, N) in the inputs' dtype."""
    if len(inputs_TK) > MAX_MATRIX_ROWS:
        return _panel_product(inputs_TK, weight)
    inputs_TK = inputs_TK.contiguous()
    tokens, rows = len(inputs_TK), weight.shape[0]
    tiles, groups, _ = weight.codes.shape
    out_TN = torch.empty(tokens, rows, dtype=inputs_TK.dtype, device=inputs_TK.device)
    if not tokens:  # the output head in a step that completes no prompt
        return out_TN
    if tokens <= MAX_VECTOR_ROWS:
        _vector_product[(tiles,)](
            inputs_TK,
            *_operands(weight),
            out_TN,
            tokens,
            rows,
            groups,
            bits=weight.bits,
            kind=_kind(weight),
            padded_tokens=triton.next_power_of_2(tokens),
            step_groups=max(VECTOR_WORDS // (weight.bits * triton.next_power_of_2(tokens)), 1),
            num_warps=4,
        )
    else:
        _matrix_product[(triton.cdiv(tiles, MATRIX_TILES),)](
            by_place(inputs_TK, weight.bits),
            *_operands(weight),
            out_TN,
            tokens,
            rows,
            groups,
            tiles,
            bits=weight.bits,
            kind=_kind(weight),
            padded_tokens=max(16, triton.next_power_of_2(tokens)),
            step_groups=MATRIX_GROUPS[weight.bits],
            step_tiles=MATRIX_TILES,
            precision="ieee",
            num_warps=4,
            num_stages=3 if tokens <= 32 else 2,  # of 99 KiB, the smallest shared memory since Ampere
        )
    return out_TN


def by_place(inputs_TK: Tensor, bits: int) -> Tensor:
    """Reorder inputs to match each place of the words: (T, 32 / bits, K * bits / 32).

    Place 2 * b + h of 4-bit codes belongs to the columns 16 * h + 4 * j + b of each group, j counting its words.
    """
    if bits == 4:
        return inputs_TK.view(len(inputs_TK), -1, 2, 4, 4).permute(0, 4, 2, 1, 3).contiguous()
    return inputs_TK.view(len(inputs_TK), -1, 8, 4).permute(0, 3, 1, 2).contiguous()


def dequantize(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Return the dequantized matrix (N, K), computed in float32; the twin is `packed_weight.dequantize`."""
    tiles, groups, _ = weight.codes.shape
    out_NK = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    step = 8
    _dequantize[(tiles, triton.cdiv(groups, step))](
        *_operands(weight),
        out_NK,
        weight.shape[0],
        groups,
        bits=weight.bits,
        kind=_kind(weight),
        step_groups=step,
        num_warps=4,
    )
    return out_NK


def _panel_product(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """Multiply by the dequantized weight, at most PANEL_NUMBERS of it at a time."""
    tiles = len(weight.codes)
    step = max(PANEL_NUMBERS // (TILE_ROWS * weight.shape[1]), 1)
    panels = (weight.tiles(start, min(start + step, tiles)) for start in range(0, tiles, step))
    products = [F.linear(inputs_TK, dequantize(panel, inputs_TK.dtype)) for panel in panels]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


def _kind(weight: PackedWeight) -> int:
    """Return 0 if centred, 1 with minimums, 2 with super-scales of both."""
    return 0 if weight.minimums is None else 1 if weight.super_scales is None else 2


def _operands(weight: PackedWeight) -> tuple[Tensor, ...]:
    """Return words of codes, scales, minimums and super-scales; missing ones are a pointer that is not read."""
    absent = weight.scales
    return (
        weight.codes.view(torch.int32),
        weight.scales,
        absent if weight.minimums is None else weight.minimums,
        absent if weight.super_scales is None else weight.super_scales,
        absent if weight.super_minimums is None else weight.super_minimums,
    )
