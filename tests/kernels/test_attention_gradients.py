"""Gradients of attention in 16 bits, computed in float32: as near to exact as the rounding lets them be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import wide_linear
from tessera.kernels.attention_gradients import prefers_float32_gradients, trained_attention
from tessera.model.attention import attend

# (queries, keys, query heads, key heads, width, causal)
SHAPES = [
    (1, 1, 1, 1, 8, True),
    (33, 33, 8, 2, 16, True),
    (65, 65, 6, 6, 24, False),
    (20, 50, 4, 1, 64, False),
    (40, 40, 6, 3, 128, True),
]
DTYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_linear, "_multiplies", lambda dtype: False)


Attended = tuple[Tensor, Tensor, Tensor]


def draw(queries: int, keys: int, heads: int, shared: int, width: int, dtype: torch.dtype) -> Attended:
    dice = torch.Generator().manual_seed(queries + heads)
    shapes = (queries, heads, width), (keys, shared, width), (keys, shared, width)
    first, second, third = (torch.randn(shape, generator=dice).to(dtype).requires_grad_() for shape in shapes)
    return first, second, third


def exact(given: Attended, gradient: Tensor, causal: bool) -> list[Tensor]:
    """Gradients of attention in float64 by its definition."""
    queries, keys, values = wide = [x.detach().double().requires_grad_() for x in given]
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("tnk,lnk->ntl", queries, keys) * queries.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), float("-inf"))
    attended = torch.einsum("ntl,lnk->tnk", scores.softmax(-1), values)
    return list(torch.autograd.grad(attended, wide, gradient.double()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_exact_but_for_one_rounding(
    shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype, threads: int
) -> None:
    queries, keys, heads, shared, width, causal = shape
    given = draw(queries, keys, heads, shared, width, dtype)
    gradient = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    wanted = exact(given, gradient, causal)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert prefers_float32_gradients(*given, causal=causal)
        attend(*given, causal=causal).backward(gradient)
    finally:
        torch.set_num_threads(before)
    for x, right in zip(given, wanted, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == dtype
        allowed = right.abs() * torch.finfo(dtype).eps / 2 + 1e-5 * right.abs().max() + 1e-7
        assert bool(((x.grad.double() - right).abs() <= allowed).all())


def test_the_attention_itself_is_pytorchs() -> None:
    given = draw(33, 33, 8, 2, 16, torch.bfloat16)
    queries, keys, values = (x.detach().repeat_interleave(8 // x.shape[1], 1).transpose(0, 1)[None] for x in given)
    wanted = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)[0].transpose(0, 1)
    assert torch.equal(trained_attention(*given, causal=True), wanted)


def test_it_is_asked_where_there_are_gradients_of_16_bits_and_no_products_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, keys, values = draw(6, 6, 2, 2, 8, torch.bfloat16)
    assert prefers_float32_gradients(queries, keys, values, causal=True)
    assert prefers_float32_gradients(queries.detach(), keys.detach(), values, causal=True)
    assert prefers_float32_gradients(queries[:3], keys, values, causal=False)
    assert not prefers_float32_gradients(queries[3:], keys, values, causal=True)  # PyTorch aligns masks otherwise
    assert not prefers_float32_gradients(queries.detach(), keys.detach(), values.detach(), causal=True)
    assert not prefers_float32_gradients(queries.float(), keys.float(), values.float(), causal=True)
    assert not prefers_float32_gradients(queries, keys, values.half(), causal=True)
    with torch.no_grad():
        assert not prefers_float32_gradients(queries, keys, values, causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_float32_gradients(queries, keys, values, causal=True)
    monkeypatch.setattr(wide_linear, "_multiplies", lambda dtype: True)
    assert not prefers_float32_gradients(queries, keys, values, causal=True)
