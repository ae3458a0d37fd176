"""Attention in 8 bits on CPUs with AVX512-VNNI, for encoders whose linears compute in 8 bits too.

One instruction multiplies twice as many numbers as in bfloat16, and the error is larger (docs/quantization.md).
`int8_attention_twin` defines it; the kernel (native/int8_attention.h) has its bits, with any number of threads. Keys
lose their mean first, which moves all scores of a query alike and so no weight, as in SageAttention (arXiv 2410.02367);
a channel in which all keys are alike then costs no precision. Weights are rounded against the largest of 256 keys at a
time, and their sum is that of the rounded ones, so that values that are all the same come back. Where a channel of the
keys is larger than others, queries take over a part of it, by powers of two, as in SmoothQuant (arXiv 2211.10438).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tessera.kernels.attention_call import FIELDS, attend_by_heads
from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, REAL, choice, kernel

# An earlier kernel of this design made the encoder 1.24 times as fast at 4096 patches and 1.06 at 1024, which is too
# little for its error (BENCHMARKS.md). This one is yet to be timed.
SHORTEST_TOKENS = 2048

# As in native/int8_attention.h.
QUERIES, KEYS, MAX_WIDTH, WIDTH_STEP = 12, 256, 256, 16
MOST_DOUBLINGS = 8
SMALLEST = 2.0**-100
LOG2_E = 1.44269504
WEIGHT_FACTORS = ("0x1.fe39dcp+7", "0x1.66c22cp+7", "0x1.e66520p+5")


class _Call(ctypes.Structure):
    """`AttentionCall` of native/int8_attention.h."""

    _fields_ = (*FIELDS, ("scale", REAL))


def prefers_int8_attention(queries_TNK: Tensor, keys_LNK: Tensor, values_LNK: Tensor) -> bool:
    """Return True if the kernel takes these on this machine and pays; AMX is faster in bfloat16."""
    if not queries_TNK.is_cpu or queries_TNK.dtype != torch.bfloat16 or records(queries_TNK, keys_LNK, values_LNK):
        return False
    width = queries_TNK.shape[-1]
    fits = width % WIDTH_STEP == 0 and width <= MAX_WIDTH and queries_TNK.shape[1] == keys_LNK.shape[1]
    if not fits or len(queries_TNK) < SHORTEST_TOKENS:
        return False
    return choice().path != "amx" and kernel("int8_attention", ADDRESS) is not None


def int8_attention(queries_TNK: Tensor, keys_LNK: Tensor, values_LNK: Tensor) -> Tensor:
    """Compute attention of all queries to all keys, as `int8_attention_twin` does; `prefers_int8_attention` is True."""
    function = kernel("int8_attention", ADDRESS)
    if function is None:
        raise RuntimeError("int8_attention has no kernel on this machine; ask prefers_int8_attention first")
    width = queries_TNK.shape[-1]
    # Codes of keys and values, three numbers for each key and four for each channel, of a head.
    packed_bytes = -(-len(keys_LNK) // KEYS) * (2 * KEYS * width + 4 * (3 * KEYS + 4 * width))
    given = (queries_TNK, keys_LNK, values_LNK)
    return attend_by_heads(function, _Call, given, width**-0.5, packed_bytes=packed_bytes, panel=QUERIES)


def int8_attention_twin(queries_TNK: Tensor, keys_LNK: Tensor, values_LNK: Tensor) -> Tensor:
    """Compute scaled dot-product attention (T, N, K) in 8 bits; each step in float32 unless whole numbers say more.

    1. Keys lose their mean: the sums of 256 keys, each in order, added in order, over their number.
    2. A channel of the keys is doubled, and that of the queries halved, `_doublings` times. That changes no score, and
       shares the differences of the keys' channels between both.
    3. A query, a key, and a channel of 256 values is rounded to -127..127 by `_round`.
    4. A score is the whole product of codes times the key's scale. The query's scale over the root of the width, the
       factor, is applied to differences of scores only, so that the largest weight of 256 keys is always 255.
    5. A weight is `_weights` of the difference to the largest score of the same 256 keys: below 2^-9 of it, zero.
    6. Sums of weights and of weighted values, whole numbers in 256 keys, are scaled to the largest score of all keys so
       far as FlashAttention does, and at the end divided. A largest score beyond float32 makes them NaN.

    So a query that is not finite has NaN. A key that is not finite, or is not less the mean, gives NaN to all queries,
    and a value that is not finite gives NaN in its channel. What is below 2^-85 in magnitude may count as zero.
    """
    queries, keys, values = (x.float().transpose(0, 1) for x in (queries_TNK, keys_LNK, values_LNK))
    keys = keys - _mean(keys)[:, None]
    doublings = _doublings(keys)
    query_codes, query_scales = _round(torch.ldexp(queries, -doublings), -1)
    # Any factor above zero serves a query of zeros.
    factors = torch.where(query_scales < SMALLEST, 1.0, query_scales) * _float(queries.shape[-1] ** -0.5)
    key_codes, key_scales = _round(torch.ldexp(keys, doublings), -1)
    peaks, totals, sums = torch.full_like(factors, float("-inf")), torch.zeros_like(factors), torch.zeros_like(queries)
    for start in range(0, keys.shape[1], KEYS):
        block = slice(start, start + KEYS)
        value_codes, value_scales = _round(values[:, block], 1)
        # float64 holds these whole numbers exactly.
        products = (query_codes.double() @ key_codes[:, block].double().mT).float()
        scales = key_scales[:, block].mT
        scores = torch.where(scales.isnan(), float("inf"), products * scales)
        largest = scores.amax(-1, keepdim=True)
        weights = _weights((scores - largest) * (factors * LOG2_E))
        peak = largest * factors
        after = torch.where(peak > peaks, peak, peaks)
        shrink, grow = _exponential(peaks - after), _exponential(peak - after)
        totals = _fused(weights.sum(-1, keepdim=True), grow, totals * shrink) + (peak - peak)
        added = (weights.double() @ value_codes.double()).float() * value_scales
        sums = _fused(added, grow, sums * shrink)
        peaks = after
    return (sums * (1 / totals)).transpose(0, 1).to(queries_TNK.dtype)


def _float(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float32))


def _mean(keys_NLK: Tensor) -> Tensor:
    total = torch.zeros_like(keys_NLK[:, 0])
    for block in keys_NLK.split(KEYS, 1):
        sums = torch.zeros_like(total)
        for key in block.unbind(1):
            sums = sums + key
        total = total + sums
    return total / keys_NLK.shape[1]


def _doublings(keys_NLK: Tensor) -> Tensor:
    """Return half the doublings that would make each channel the largest, (N, 1, K), rounded, at most 8.

    By the bits of their largest magnitudes, which grow by 2^23 when a number doubles.
    """
    bits = keys_NLK.abs().amax(1, keepdim=True).view(torch.int32)
    return ((((bits.amax(-1, keepdim=True) - bits) >> 23) + 1) >> 1).clamp(max=MOST_DOUBLINGS)


def _round(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return codes, x times 127 over the largest magnitude, and scales: NaN if a number is not finite.

    A scale below SMALLEST, and one of NaN, has codes of zero.
    """
    top = x.abs().amax(dim, keepdim=True) + (x * 0).sum(dim, keepdim=True)
    scales = top / 127
    inverse = torch.full_like(top, 127) / top  # 127 / top would be its reciprocal times 127
    return torch.where(scales >= SMALLEST, (x * inverse).round(), 0), scales


def _weights(x: Tensor) -> Tensor:
    """Return 255 * 2^x rounded, for x at most 0: a polynomial within 0.17 %; NaN gives 0."""
    inside = torch.where(x > -16, x, -16.0)
    whole = inside.round()
    rest = inside - whole
    first, second, third = (torch.tensor(float.fromhex(factor)) for factor in WEIGHT_FACTORS)
    return torch.ldexp(_fused(_fused(third, rest, second), rest, first), whole).round()


def _exponential(x: Tensor) -> Tensor:
    """Return e^x as native/vector.h does, within 2 units in the last place; held to +-87.3, and NaN to -87.3."""
    inside = torch.where(x > -87.3, x, _float(-87.3)).clamp(max=_float(87.3))
    magic = torch.tensor(1.5 * 2**23)
    whole = _fused(inside, torch.tensor(LOG2_E), magic) - magic
    rest = _fused(whole, torch.tensor(2.12194440e-4), _fused(whole, torch.tensor(-0.693359375), inside))
    power = torch.tensor(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        power = _fused(power, rest, torch.tensor(factor))
    return torch.ldexp(power, whole)


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a * b + c rounded once to float32.

    The product is exact in float64. The sum is rounded there to an odd last bit if it is not exact, so that rounding
    it again cannot meet a tie that was none (Boldo and Melquiond, 2008).
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    moved = total - product
    error = (product - (total - moved)) + (addend - moved)
    bits = total.view(torch.int64)
    inexact = total.isfinite() & (error != 0) & (bits & 1 == 0)
    step = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where(inexact, (bits + step).view(torch.float64), total).float()
