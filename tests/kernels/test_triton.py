"""The Triton kernels against their plain-torch twins: on a CUDA device, else in Triton's interpreter (conftest).

The interpreter multiplies bfloat16's bits as whole numbers, so products in it are tested in float32
and float16 there. What only a device shows (memory layout, launch limits, speed) it does not show.
"""

from __future__ import annotations

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

import torch.nn.functional as F  # noqa: E402

from tessera.kernels import (  # noqa: E402
    triton_elementwise,
    triton_fp8_linear,
    triton_packed_linear,
    triton_paged_attention,
)
from tessera.kernels.fp8_linear import Fp8Weight, dequantize_fp8, quantize_fp8  # noqa: E402
from tessera.kernels.packed_weight import dequantize  # noqa: E402
from tests.kernels.test_packed_weight import KINDS, random_weight  # noqa: E402

TRITON_KINDS = [kind for kind in KINDS if kind[0] != 3]  # GPUs compute 3 bits by the twin
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
# Rounding of inputs, weights and results to the dtype, in norm.
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.isfinite().all()
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().cpu().norm().clamp(1e-300))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 3, 5, 70])
@pytest.mark.parametrize(("bits", "kind"), TRITON_KINDS)
def test_products_equal_those_with_the_dequantized_weight(
    bits: int, kind: str, tokens: int, dtype: torch.dtype
) -> None:
    weight = random_weight(bits, 18, 512, kind)
    inputs = torch.randn(tokens, 512, generator=torch.Generator().manual_seed(tokens)).to(dtype)
    expected = inputs.double() @ dequantize(weight).double().T
    found = triton_packed_linear.packed_linear(inputs.to(DEVICE), weight.to(torch.device(DEVICE)))
    assert (found.shape, found.dtype) == ((tokens, 18), dtype)
    assert distance(found, expected) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 3, 5])
def test_fp8_products_equal_those_with_the_dequantized_weight(tokens: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(tokens)
    weight = Fp8Weight(*quantize_fp8(torch.randn(37, 592, generator=generator)))
    inputs = torch.randn(tokens, 592, generator=generator).to(dtype)
    found = triton_fp8_linear.fp8_linear(inputs.to(DEVICE), weight.values.to(DEVICE), weight.scales.to(DEVICE))
    assert (found.shape, found.dtype) == ((tokens, 37), dtype)
    assert distance(found, inputs.double() @ dequantize_fp8(weight).double().T) < BOUNDS[dtype]


@pytest.mark.parametrize(("bits", "kind"), TRITON_KINDS)
def test_a_dequantized_panel_is_the_twins(bits: int, kind: str) -> None:
    weight = random_weight(bits, 18, 512, kind)
    found = triton_packed_linear.dequantize(weight.to(torch.device(DEVICE)), torch.float32)
    # A device may join the product and the sum into one rounding.
    torch.testing.assert_close(found.cpu(), dequantize(weight), rtol=0, atol=0 if DEVICE == "cpu" else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width", "block_tokens"), [(8, 2, 24, 16), (4, 4, 64, 32)])
def test_what_is_stored_in_blocks_is_attended(
    heads: int, kv_heads: int, width: int, block_tokens: int, scaled: bool, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Lengths of one token, within a tile, over several splits, and 0, as a graph's padded rows have."""
    monkeypatch.setattr(triton_paged_attention, "PROGRAMS", 4 * kv_heads * 2)
    monkeypatch.setattr(triton_paged_attention, "TILE_TOKENS", 16)
    lengths = [1, 16, 37, 0]
    blocks = torch.randperm(16, generator=torch.Generator().manual_seed(1)).view(4, 4)
    shape = (16, block_tokens, kv_heads, width)
    cache_dtype = torch.int8 if scaled else dtype
    keys_BSMK, values_BSMK = (torch.full(shape, 77, dtype=cache_dtype, device=DEVICE) for _ in range(2))
    scales = [torch.full(shape[:3], torch.nan, device=DEVICE) if scaled else None for _ in range(2)]
    generator = torch.Generator().manual_seed(2)
    contexts = [torch.randn(2, length, kv_heads, width, generator=generator).to(dtype) for length in lengths]
    slots = [
        (table[:, None] * block_tokens + torch.arange(block_tokens)).flatten()[:length]
        for table, length in zip(blocks, lengths, strict=True)
    ]
    keys, values = torch.cat(contexts, dim=1).to(DEVICE)
    triton_elementwise.store(keys, values, torch.cat(slots).to(DEVICE), keys_BSMK, values_BSMK, *scales)
    queries = torch.randn(4, heads, width, generator=generator).to(dtype)
    found = triton_paged_attention.paged_attention(
        queries.to(DEVICE),
        keys_BSMK,
        values_BSMK,
        blocks.int().to(DEVICE),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        *scales,
    )
    group = heads // kv_heads
    for row, (context_keys, context_values) in enumerate(contexts[:3]):
        expected = F.scaled_dot_product_attention(
            queries[row, :, None].double(),
            context_keys.double().transpose(0, 1).repeat_interleave(group, 0),
            context_values.double().transpose(0, 1).repeat_interleave(group, 0),
        )[:, 0]
        # 8 bits: half a scale of 1/127 of the largest, a hundredth in norm.
        assert distance(found[row], expected) < (2e-2 if scaled else BOUNDS[dtype])
    assert not found[3].any()


def test_8_bits_are_rounded_as_the_twin_rounds() -> None:
    keys, values = torch.randn(2, 5, 2, 24, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    keys[1] = 0
    codes = [torch.zeros(3, 16, 2, 24, dtype=torch.int8, device=DEVICE) for _ in range(2)]
    scales = [torch.zeros(3, 16, 2, device=DEVICE) for _ in range(2)]
    slots = torch.tensor([17, 0, 40, 3, 47], device=DEVICE)
    triton_elementwise.store(keys, values, slots, codes[0], codes[1], scales[0], scales[1])
    for given, code, scale in zip((keys, values), codes, scales, strict=True):
        expected_scales = given.abs().amax(-1) / 127
        expected = (given / expected_scales.where(expected_scales > 0, 1)[..., None]).round()
        assert torch.equal(code.flatten(0, 1)[slots].float(), expected)
        torch.testing.assert_close(scale.flatten(0, 1)[slots], expected_scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "width"), [(3, 8, 128), (2, 3, 24)])
def test_rotation_and_gate_equal_plain_torch(tokens: int, heads: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    x, up = torch.randn(2, tokens, heads, width, generator=generator).to(dtype)
    angles = torch.randn(tokens, width // 2, generator=generator) * 10
    even, odd = x.double()[..., 0::2], x.double()[..., 1::2]
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    expected = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    turned = triton_elementwise.rotate(x.to(DEVICE, copy=True), angles.cos().to(DEVICE), angles.sin().to(DEVICE))
    assert distance(turned, expected) < BOUNDS[dtype]
    gated = triton_elementwise.silu_gate(x.to(DEVICE, copy=True), up.to(DEVICE))
    assert distance(gated, F.silu(x.double()) * up.double()) < BOUNDS[dtype]
