"""Attention in panels: the C++ kernel on each path, AMX emulated, and torch's panels, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tessera.kernels import prefill_attention as module
from tessera.kernels.prefill_attention import prefill_attention, prefill_attention_torch
from tests.kernels.emulation import emulated_kernel, forced_here

# (tokens, context, query heads, key/value heads, width): one token; panels, key blocks and widths that are not whole;
# several panels; a context beyond the tokens; the widths of the family.
SHAPES = [
    (1, 1, 1, 1, 16),
    (7, 7, 4, 2, 16),
    (97, 97, 2, 2, 88),
    (200, 515, 4, 2, 64),
    (515, 515, 2, 1, 128),
    (64, 256, 3, 1, 20),
]


@pytest.fixture(params=["avx512_bf16", "emulated amx"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each path of the C++ kernel."""
    if request.param == "emulated amx":
        monkeypatch.setattr(module, "kernel", emulated_kernel(request.getfixturevalue("emulated_amx")))
        yield
        return
    with forced_here(request.param):
        yield


def draw(tokens: int, context: int, heads: int, kv_heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the model has them: parts of wider rows."""
    generator = torch.Generator().manual_seed(tokens + context + width)
    queries = torch.randn(tokens, heads + 1, width, generator=generator)[:, 1:]
    keys, values = torch.randn(context, 2, kv_heads, width, generator=generator).unbind(1)
    return queries, keys, values


def exact(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
    """Attention in float64 by its definition."""
    (tokens, heads, width), (context, kv_heads, _) = queries.shape, keys.shape
    keys, values = (x.double().repeat_interleave(heads // kv_heads, 1) for x in (keys, values))
    scores = torch.einsum("tnk,lnk->ntl", queries.double(), keys) * width**-0.5
    if causal:
        hidden = torch.arange(context)[None] > torch.arange(context - tokens, context)[:, None]
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("ntl,lnk->tnk", scores.softmax(-1), values)


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    return float((ours.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("native")
def test_the_kernel_is_attention(shape: tuple[int, int, int, int, int], causal: bool) -> None:
    """Weights and outputs are rounded to 8 bits, 2^-9 each at most; scores and sums are float32."""
    queries, keys, values = (x.bfloat16() for x in draw(*shape))
    ours = prefill_attention(queries, keys, values, causal=causal)
    assert relative_error(ours, exact(queries, keys, values, causal=causal)) < 0.004


@pytest.mark.usefixtures("native")
def test_a_query_has_the_same_bits_in_any_company() -> None:
    """Alone or in a panel, whole or in chunks, with one thread or three, all heads at once or one by one."""
    queries, keys, values = (x.bfloat16() for x in draw(330, 600, 4, 2, 64))
    whole = prefill_attention(queries, keys, values, causal=True)
    for start, stop in ((0, 1), (1, 96), (96, 330)):
        seen = 600 - 330 + stop
        chunk = prefill_attention(queries[start:stop], keys[:seen], values[:seen], causal=True)
        assert torch.equal(chunk, whole[start:stop])
    threads, limit = torch.get_num_threads(), module.PACKED_BYTES_PER_THREAD
    try:
        torch.set_num_threads(3)
        module.PACKED_BYTES_PER_THREAD = 1
        assert torch.equal(prefill_attention(queries, keys, values, causal=True), whole)
    finally:
        torch.set_num_threads(threads)
        module.PACKED_BYTES_PER_THREAD = limit


@pytest.mark.usefixtures("native")
def test_scores_of_any_size() -> None:
    """Scores in the thousands choose one key; equal scores average all."""
    queries, keys, values = (x.bfloat16() for x in draw(100, 300, 1, 1, 32))
    large = 100 * queries, 100 * keys, values
    assert relative_error(prefill_attention(*large, causal=True), exact(*large, causal=True)) < 0.004
    equal = prefill_attention(0 * queries, keys, values, causal=False)
    torch.testing.assert_close(equal[0, 0].float(), values[:, 0].float().mean(0), atol=1e-3, rtol=0.01)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (515, 1100, 2, 1, 64)])
def test_panels_in_torch(shape: tuple[int, int, int, int, int], causal: bool) -> None:
    queries, keys, values = draw(*shape)
    wanted = exact(queries, keys, values, causal=causal)
    ours = prefill_attention_torch(queries, keys, values, causal=causal)
    torch.testing.assert_close(ours.double(), wanted, atol=2e-6, rtol=1e-5)
    # Rounding inputs, scores and weights to 8 bits stays within 1.5 % in norm.
    low = prefill_attention_torch(queries.bfloat16(), keys.bfloat16(), values.bfloat16(), causal=causal)
    assert relative_error(low, wanted) < 0.015
