"""Attention in float32 on AVX2: as exact as PyTorch's, the same bits in any company, and taken where its rule says."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import wide_attention as module
from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.wide_attention import prefers_wide_attention, wide_attention
from tessera.model.attention import DenseVisionPlan, attend
from tessera.model.rope import rotation_2d
from tests.kernels.emulation import forced_here

# (queries, keys, heads, width): one; parts of tiles of 24, of panels of 96, of fours of keys and of blocks of 128;
# the widths of the family, the narrowest and the widest; as many keys as a large picture has.
SHAPES = [
    (1, 1, 1, 64),
    (5, 3, 2, 8),
    (24, 128, 1, 48),
    (25, 127, 2, 64),
    (96, 129, 1, 88),
    (97, 256, 3, 104),
    (130, 130, 2, 128),
    (300, 515, 2, 64),
    (515, 515, 1, 16),
    (100, 4096, 1, 64),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def native() -> Iterator[None]:
    with forced_here("avx2"):
        yield


def draw(queries: int, keys: int, heads: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values as parts of wider rows, with strides of their own."""
    generator = torch.Generator().manual_seed(queries + keys + heads + width)
    first = torch.randn(queries, heads + 1, width, generator=generator)[:, 1:]
    return [x.to(dtype) for x in (first, *torch.randn(keys, 2, heads, width, generator=generator).unbind(1))]


def exact(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention in float64 by its definition."""
    scores = torch.einsum("tnk,lnk->ntl", queries.double(), keys.double()) * queries.shape[-1] ** -0.5
    return torch.einsum("ntl,lnk->tnk", scores.softmax(-1), values.double())


def twin(*given: Tensor, causal: bool = False) -> Tensor:
    queries, keys, values = (x.float().transpose(0, 1)[None] for x in given)
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)[0].transpose(0, 1)


def errors(ours: Tensor, wanted: Tensor) -> Tensor:
    return (ours.double() - wanted).abs()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("native")
def test_it_is_as_exact_as_pytorch_in_float32(
    shape: tuple[int, int, int, int], sharpness: float, dtype: torch.dtype
) -> None:
    """Twice its largest error, a unit of float32 for what both round at the end, and the rounding to 16 bits."""
    queries, keys, values = draw(*shape, dtype)
    given = queries * sharpness, keys, values
    wanted, ours = exact(*given), wide_attention(*given)
    assert ours.dtype == dtype
    allowed = 2 * errors(twin(*given), wanted).max() + 2**-23 * wanted.abs().max()
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    assert bool((errors(ours, wanted) <= allowed * (1 + rounding) + wanted.abs() * rounding + smallest).all())


@pytest.mark.usefixtures("native")
def test_strides_may_be_any() -> None:
    queries, keys, values = draw(300, 300, 4, 64)
    some = queries[7:90:3, ::2], keys[:, 1::2].mT.contiguous().mT, values[:, ::2]
    assert some[1].stride(-1) != 1
    assert torch.equal(wide_attention(*some), wide_attention(*(x.contiguous() for x in some)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("native")
def test_neither_threads_nor_neighbours_change_a_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread or three, all heads at once or one by one, in a tile with others or without."""
    queries, keys, values = draw(330, 400, 4, 64, dtype)
    whole = wide_attention(queries, keys, values)
    for start, stop in ((0, 1), (1, 100), (100, 330)):
        assert torch.equal(wide_attention(queries[start:stop], keys, values), whole[start:stop])
    threads = torch.get_num_threads()
    monkeypatch.setattr("tessera.kernels.attention_call.PACKED_BYTES_PER_THREAD", 1)
    try:
        torch.set_num_threads(3)
        assert torch.equal(wide_attention(queries, keys, values), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("native")
def test_weights_are_powers_within_a_few_units() -> None:
    """From 1 down to 2^-120: a key of score 0 with a value of 0, and one of lower score with 1, whose weight comes out.

    A weight is off by 2 units of 2^-24 at most, the total too, and what divides by it rounds twice.
    """
    queries, keys, values = torch.zeros(4096, 1, 8), torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)
    queries[:, 0, 0] = torch.linspace(0, 83, 4096) * 8**0.5
    keys[1, 0, 0], values[1] = -1.0, 1.0
    # As the kernel has them: the query times the scale, rounded once.
    scale = torch.tensor(8**-0.5 / math.log(2)).double()
    powers = -(queries[:, 0, 0].double() * scale).float().double()
    assert powers.min() < -119
    found = wide_attention(queries, keys, values)[:, 0, 0].double()
    wanted = 2**powers / (1 + 2**powers)
    assert float(((found - wanted) / wanted).abs().max()) < 6 * 2**-24


@pytest.mark.parametrize("size", [3000.0, 1e15])
@pytest.mark.usefixtures("native")
def test_large_scores_choose_one_key(size: float) -> None:
    queries, keys, values = draw(300, 300, 2, 64)
    out = wide_attention(size * queries, size * keys, values)
    chosen = torch.einsum("tnk,lnk->ntl", queries.double(), keys.double()).argmax(-1)
    torch.testing.assert_close(out, torch.stack([values[row, head] for head, row in enumerate(chosen)], 1))


@pytest.mark.parametrize("size", [1e3, 1e15, 1e35])
@pytest.mark.usefixtures("native")
def test_scores_that_are_all_very_negative_weigh_as_their_differences_do(size: float) -> None:
    """All alike and far below zero, in whole blocks and in the part of one, beside which padding must not count."""
    queries, keys, values = torch.ones(30, 1, 64), torch.full((130, 1, 64), -size / 8), draw(1, 130, 1, 64)[2]
    torch.testing.assert_close(wide_attention(queries, keys, values), exact(queries, keys, values).float())


@pytest.mark.parametrize("hidden", [slice(0, 140), slice(100, 400), slice(390, 400)])
@pytest.mark.usefixtures("native")
def test_scores_of_minus_infinity_weigh_nothing(hidden: slice) -> None:
    """In whole blocks of keys, the first or later ones, and in parts."""
    queries, keys, values = draw(30, 400, 2, 64)
    queries[..., 3] = queries[..., 3].abs() + 0.1
    keys[hidden, :, 3] = -INFINITY
    torch.testing.assert_close(wide_attention(queries, keys, values), exact(queries, keys, values).float())
    keys[..., 3] = -INFINITY
    assert wide_attention(queries, keys, values).isnan().all()


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("native")
def test_what_is_not_finite_reaches_what_it_reaches_in_pytorch(number: float, dtype: torch.dtype) -> None:
    """A query itself, a key its head's queries, a value its head's channel, and nothing else."""
    queries, keys, values = draw(300, 300, 3, 64, dtype)
    queries[290, 0, 1], keys[299, 1, 1], values[5, 2, 2] = number, number, number
    ours, wanted = wide_attention(queries, keys, values), twin(queries, keys, values)
    assert torch.equal(ours.isnan(), wanted.isnan())
    assert torch.equal(ours.isinf(), wanted.isinf())
    assert torch.equal(ours.isnan(), exact(queries, keys, values).isnan())
    reached = torch.zeros(300, 3, 64, dtype=torch.bool)
    reached[290, 0] = reached[:, 1] = reached[:, 2, 2] = True
    assert ours[~reached].isfinite().all()


@torch.no_grad()
@pytest.mark.usefixtures("native")
def test_each_image_of_a_plan_is_attended_alone_and_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that the kernel takes have its bits; a smaller one, and attention to earlier tokens, PyTorch's."""
    monkeypatch.setattr(module, "SHORTEST_TOKENS", 64)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    grids = [(10, 13), (3, 5), (12, 12)]
    lengths = [rows * columns for rows, columns in grids]
    images = torch.randn(3, sum(lengths), 2, 48, generator=torch.Generator().manual_seed(0))
    plan = DenseVisionPlan(grids, rotation_2d(grids, 48, 10000.0, torch.device("cpu")))
    for out, *each in zip(plan.attend(*images).split(lengths), *(x.split(lengths) for x in images), strict=True):
        assert torch.equal(out, twin(*each) if len(out) == 15 else wide_attention(*each))
    assert torch.equal(attend(*images, causal=True), twin(*images, causal=True))


@pytest.mark.usefixtures("native")
def test_gradients_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORTEST_TOKENS", 64)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    ours, theirs = ([x.clone().requires_grad_() for x in draw(100, 100, 2, 64)] for _ in range(2))
    attend(*ours, causal=False).square().sum().backward()
    twin(*theirs).square().sum().backward()
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


@pytest.mark.usefixtures("native")
def test_what_the_kernel_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    images = torch.zeros(3, module.SHORTEST_TOKENS, 2, 64)
    for dtype in DTYPES:
        assert prefers_wide_attention(*images.to(dtype))
    for width in (8, 48, 64, 88, 104, 128):
        assert prefers_wide_attention(*torch.zeros(3, module.SHORTEST_TOKENS, 2, width))
    for width in (0, 4, 60, 136):
        assert not prefers_wide_attention(*torch.zeros(3, module.SHORTEST_TOKENS, 2, width))
    queries, keys, values = images
    assert prefers_wide_attention(queries, keys[:9], values[:9])
    assert not prefers_wide_attention(queries[1:], keys, values)
    assert not prefers_wide_attention(queries, keys[:0], values[:0])
    assert not prefers_wide_attention(queries, keys[:, :1], values[:, :1])
    assert not prefers_wide_attention(queries, keys, values[:9])
    assert not prefers_wide_attention(queries, keys, values.bfloat16())
    assert not prefers_wide_attention(*images.double())
    assert not prefers_wide_attention(*images.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_wide_attention(*images)
    trained = images.clone().requires_grad_()
    assert not prefers_wide_attention(*trained)
    with torch.no_grad():
        assert prefers_wide_attention(*trained)


def test_it_is_not_asked_where_pytorch_has_more_or_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(3, module.SHORTEST_TOKENS, 2, 64)
    for capability in ("DEFAULT", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert not prefers_wide_attention(*images)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with forced("torch"):
        assert not prefers_wide_attention(*images)
        with pytest.raises(RuntimeError, match="prefers_wide_attention"):
            wide_attention(*images)
    assert prefers_wide_attention(*images) == ("avx2" in PATHS[: PATHS.index(choice().path) + 1])
