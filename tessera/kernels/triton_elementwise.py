"""Elementwise operations and the store into the paged cache in Triton, for GPUs: one launch each.

In plain torch a rotation is a dozen launches of two microseconds, forty times a step: as long as
the step's own work. The twins are in `elementwise.py` and `cache_layer.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
MIN_HEADS = 8  # of one program of the rotation


@triton.jit
def _silu_gate(gate, up, out, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < count
    x = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, (x / (1.0 + tl.exp(-x)) * y).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    token_stride,
    head_stride,
    heads,
    width: tl.constexpr,
    padded_width: tl.constexpr,
    step_heads: tl.constexpr,
):
    """Rotate some heads of one token in place."""
    token, channel = tl.program_id(0), tl.arange(0, padded_width)
    head = tl.program_id(1) * step_heads + tl.arange(0, step_heads)
    mask = (head < heads)[:, None] & (channel < width)[None, :]
    place = x + token.to(tl.int64) * token_stride + head[:, None] * head_stride + channel[None, :]
    pairs = tl.reshape(tl.load(place, mask=mask, other=0.0).to(tl.float32), (step_heads, padded_width // 2, 2))
    even, odd = tl.split(pairs)
    pair = tl.arange(0, padded_width // 2)
    angle_at = token * (width // 2) + pair
    cosine = tl.load(cos + angle_at, mask=pair < width // 2, other=0.0)[None, :]
    sine = tl.load(sin + angle_at, mask=pair < width // 2, other=0.0)[None, :]
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    tl.store(place, tl.reshape(turned, (step_heads, padded_width)).to(x.dtype.element_ty), mask=mask)


@triton.jit
def _store(
    keys,
    values,
    key_cache,
    value_cache,
    key_scales,
    value_scales,
    slots,
    heads,
    width: tl.constexpr,
    padded_width: tl.constexpr,
    scaled: tl.constexpr,
):
    """Store one head of one token, unchanged or as 8-bit codes with the scale largest / 127."""
    token, head, channel = tl.program_id(0), tl.program_id(1), tl.arange(0, padded_width)
    mask = channel < width
    given = (token.to(tl.int64) * heads + head) * width + channel
    key = tl.load(keys + given, mask=mask, other=0.0)
    value = tl.load(values + given, mask=mask, other=0.0)
    row = tl.load(slots + token) * heads + head
    if scaled:
        key_scale = tl.max(tl.abs(key.to(tl.float32)), 0) / 127.0
        value_scale = tl.max(tl.abs(value.to(tl.float32)), 0) / 127.0
        tl.store(key_scales + row, key_scale)
        tl.store(value_scales + row, value_scale)
        key = _round(key.to(tl.float32) / tl.where(key_scale > 0, key_scale, 1.0))
        value = _round(value.to(tl.float32) / tl.where(value_scale > 0, value_scale, 1.0))
    tl.store(key_cache + row * width + channel, key.to(key_cache.dtype.element_ty), mask=mask)
    tl.store(value_cache + row * width + channel, value.to(value_cache.dtype.element_ty), mask=mask)


@triton.jit
def _round(x):
    """Round a small float32 to the nearest integer, halves to even, by adding 1.5 * 2^23."""
    return (x + 12582912.0) - 12582912.0


def silu_gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up of contiguous tensors, in the gate's memory."""
    count = gate_TF.numel()
    _silu_gate[(triton.cdiv(count, BLOCK),)](gate_TF, up_TF, gate_TF, count, block=BLOCK)
    return gate_TF


def rotate(x_TNK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i+1) of each head in place; cosines and sines are float32 (T, K/2), contiguous."""
    tokens, heads, width = x_TNK.shape
    step = min(MIN_HEADS, triton.next_power_of_2(heads))
    _rotate[(tokens, triton.cdiv(heads, step))](
        x_TNK,
        cos_TK,
        sin_TK,
        x_TNK.stride(0),
        x_TNK.stride(1),
        heads,
        width=width,
        padded_width=triton.next_power_of_2(width),
        step_heads=step,
        num_warps=2,
    )
    return x_TNK


def store(
    keys_TMK: Tensor,
    values_TMK: Tensor,
    slots_T: Tensor,
    keys_BSMK: Tensor,
    values_BSMK: Tensor,
    key_scales_BSM: Tensor | None,
    value_scales_BSM: Tensor | None,
) -> None:
    """Write each token's keys and values to its slot, in 8 bits where the cache has scales."""
    tokens, heads, width = keys_TMK.shape
    scaled = key_scales_BSM is not None
    _store[(tokens, heads)](
        keys_TMK.contiguous(),
        values_TMK.contiguous(),
        keys_BSMK,
        values_BSMK,
        key_scales_BSM if scaled else keys_BSMK,  # a pointer that is not followed
        value_scales_BSM if scaled else values_BSMK,
        slots_T,
        heads,
        width=width,
        padded_width=triton.next_power_of_2(width),
        scaled=scaled,
        num_warps=1,
    )
