"""Attention in 8 bits: the C++ kernel, on VNNI or emulated, has its twin's bits; the twin is near exact attention."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tessera.kernels import int8_attention as module
from tessera.kernels.int8_attention import int8_attention, int8_attention_twin, prefers_int8_attention
from tessera.kernels.library import PATHS, choice, forced
from tests.kernels.emulation import emulated_kernel, forced_here

# (patches, heads, width): parts of tiles of 12, of vectors of 64 keys and of blocks of 256, in the widths of the family
# and beyond.
SHAPES = [
    (1, 1, 16),
    (13, 3, 48),
    (63, 1, 128),
    (65, 2, 64),
    (255, 2, 80),
    (256, 1, 64),
    (257, 2, 48),
    (600, 2, 64),
    (530, 1, 256),
]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(params=["avx512", "emulated vnni"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each path of the C++ kernel."""
    if request.param == "emulated vnni":
        monkeypatch.setattr(module, "kernel", emulated_kernel(request.getfixturevalue("emulated_vnni"), "avx512"))
        yield
        return
    with forced_here(request.param):
        yield


def draw(patches: int, heads: int, width: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as parts of wider rows, with strides of their own."""
    generator = torch.Generator().manual_seed(patches + heads + width)
    queries = torch.randn(patches, heads + 1, width, generator=generator)[:, 1:] * scale
    keys, values = torch.randn(patches, 2, heads, width, generator=generator).unbind(1)
    return queries.bfloat16(), keys.bfloat16(), values.bfloat16()


def exact(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention in float64 by its definition."""
    scores = torch.einsum("tnk,lnk->ntl", queries.double(), keys.double()) * queries.shape[-1] ** -0.5
    return torch.einsum("ntl,lnk->tnk", scores.softmax(-1), values.double())


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    return float((ours.double() - wanted).norm() / wanted.norm())


def assert_same_bits(ours: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("native")
def test_the_kernel_has_the_bits_of_its_twin(shape: tuple[int, int, int], scale: float) -> None:
    given = draw(*shape, scale)
    assert_same_bits(int8_attention(*given), int8_attention_twin(*given))


@pytest.mark.usefixtures("native")
def test_queries_may_be_fewer_than_keys_and_strides_any() -> None:
    queries, keys, values = draw(300, 4, 64)
    some = queries[7:90:3, ::2], keys[:, 1::2].mT.contiguous().mT, values[:, ::2]
    assert some[1].stride(-1) != 1
    assert_same_bits(int8_attention(*some), int8_attention_twin(*some))


@pytest.mark.usefixtures("native")
def test_neither_threads_nor_neighbours_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread or three, all heads at once or one by one, in a tile with others or without."""
    queries, keys, values = draw(330, 4, 64)
    whole = int8_attention(queries, keys, values)
    for start, stop in ((0, 1), (1, 100), (100, 330)):
        assert torch.equal(int8_attention(queries[start:stop], keys, values), whole[start:stop])
    threads = torch.get_num_threads()
    monkeypatch.setattr("tessera.kernels.attention_call.PACKED_BYTES_PER_THREAD", 1)
    try:
        torch.set_num_threads(3)
        assert torch.equal(int8_attention(queries, keys, values), whole)
    finally:
        torch.set_num_threads(threads)


def change(row: Tensor, *numbers: float) -> None:
    row[..., : len(numbers)] = torch.tensor(numbers)


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.usefixtures("native")
def test_what_is_not_finite_gives_nan_where_it_is_seen(number: float) -> None:
    """A query to itself, a key to its head's queries, a value to its head's channel; and the twin says the same."""
    queries, keys, values = draw(300, 3, 64)
    change(queries[290, 0], 1.0, number)
    change(keys[299, 1], number)
    change(values[5, 2], 0.0, 0.0, number)
    out = int8_attention(queries, keys, values)
    wanted = torch.zeros(300, 3, 64, dtype=torch.bool)
    wanted[290, 0] = wanted[:, 1] = wanted[:, 2, 2] = True
    assert torch.equal(out.isnan(), wanted)
    assert out[~wanted].isfinite().all()
    assert_same_bits(out, int8_attention_twin(queries, keys, values))


@pytest.mark.usefixtures("native")
def test_scores_beyond_float32_give_nan_and_no_others() -> None:
    """The largest score is then infinite, as in exact attention in float32; where all are zero none is."""
    queries, keys, values = draw(300, 2, 64)
    queries[:, 0], keys[:, 0] = 1e30 * queries[:, 0], 1e30 * keys[:, 0]
    queries[7] = 0
    out = int8_attention(queries, keys, values)
    rows = out[:, 0].isnan().all(-1)
    assert not rows[7]
    assert rows.sum() == 299
    assert out[7].isfinite().all()
    assert out[:, 1].isfinite().all()
    assert_same_bits(out, int8_attention_twin(queries, keys, values))
    # Sums of keys beyond float32, though each is within it.
    keys[:, 1] = 3e38
    assert int8_attention(queries, keys, values)[:, 1].isnan().all()


@pytest.mark.parametrize("number", [0.0, 1e-40, 1e-33, -3e-30])
@pytest.mark.usefixtures("native")
def test_zeros_and_numbers_near_zero(number: float) -> None:
    """Queries or keys of almost nothing average the values; values of almost nothing are that or zero."""
    queries, keys, values = draw(300, 2, 64)
    mean = values.double().mean(0)
    none = torch.full_like(queries, number)
    for given in ((none, keys, values), (queries, none, values)):
        out = int8_attention(*given)
        # Codes of values are off by 1/254 of the largest, some 4, at most; bfloat16 by 2^-9.
        assert (out.double() - mean).abs().max() < 4 / 254 + 2**-9
        assert_same_bits(out, int8_attention_twin(*given))
    out = int8_attention(queries, keys, none)
    assert (out.double() - none.double()).abs().max() <= 2.0**-93
    assert_same_bits(out, int8_attention_twin(queries, keys, none))


@pytest.mark.usefixtures("native")
def test_scores_in_the_thousands_choose_one_key() -> None:
    queries, keys, values = draw(300, 2, 64, 3000.0)
    out = int8_attention(queries, keys, values)
    assert out.isfinite().all()
    assert_same_bits(out, int8_attention_twin(queries, keys, values))


@pytest.mark.parametrize("scale", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("patches", [300, 1024])
def test_the_twin_is_near_exact_attention(patches: int, scale: float) -> None:
    """Within twice what errors of a typical query add up to; the largest outputs come from larger scores.

    Codes are off by 0.29 steps (root mean square): 64 numbers end at 2.5 deviations, so by 0.57 % of one, 256 values
    at 2.9, 0.66 %. Both factors of a score err, so a weight does by 0.8 % for each unit of the scores' deviation.
    A weight of e^-2.8 of the largest, typical of 256, is 15; 0.29 is 0.7 % of the root mean square of all.
    """
    given = draw(patches, 2, 64, scale)
    typical = ((0.008 * scale) ** 2 + 0.0066**2 + 0.007**2) ** 0.5
    assert relative_error(int8_attention_twin(*given), exact(*given)) < 2 * typical


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_large_channel_of_the_keys_costs_little(scale: float) -> None:
    """Of keys 20 times the others queries take over 4, which leaves 5: within twice what errors then add up to.

    A key is rounded to a 127th of about 5, by which 64 numbers of the queries, one of 4, err with 1.27 %; a query to
    a 127th of about 4.2, by which the keys do with 1.12 %. The rest is as above. One scale of 20 errs with 4.8 %.
    """
    queries, keys, values = draw(512, 2, 64, scale)
    keys[..., 5] *= 20
    typical = ((0.017 * scale) ** 2 + 0.0066**2 + 0.007**2) ** 0.5
    given = queries, keys, values
    assert relative_error(int8_attention_twin(*given), exact(*given)) < 2 * typical


@pytest.mark.parametrize("sizes", ["falling", "one", "none"])
@pytest.mark.usefixtures("native")
def test_channels_of_any_sizes_give_the_bits_of_the_twin(sizes: str) -> None:
    """Each doubling that there is, more than there may be, one channel alone, and keys that are all the same."""
    queries, keys, values = draw(270, 2, 64)
    channels = torch.arange(64)
    if sizes == "falling":
        keys = keys * 2.0 ** -(channels * 0.5)
    elif sizes == "one":
        keys = keys * (channels == 7)
    elif sizes == "none":
        keys = keys[:1].expand(270, -1, -1)
    given = queries, keys.bfloat16(), values
    assert_same_bits(int8_attention(*given), int8_attention_twin(*given))


def test_a_mean_of_the_keys_costs_no_precision() -> None:
    """A channel of all keys moved by 64 moves no weight: the error stays that of the keys without it."""
    queries, keys, values = (x.float() for x in draw(1024, 2, 64))
    keys = (keys * 64).round() / 64  # which bfloat16 holds moved as well
    moved = keys.clone()
    moved[..., 3] = keys[..., 3].round() + 64
    keys[..., 3] = keys[..., 3].round()
    plain, moved_too = (
        relative_error(int8_attention_twin(queries, each, values), exact(queries, each, values))
        for each in (keys, moved)
    )
    assert moved_too < 1.01 * plain


def test_constant_values_come_back() -> None:
    """Weights are divided by their own sum: nothing is lost but the rounding of values."""
    queries, keys, values = draw(300, 2, 64, 4.0)
    torch.testing.assert_close(
        int8_attention_twin(queries, keys, torch.full_like(values, 1.5)),
        torch.full_like(values, 1.5),
        rtol=2**-8,
        atol=0,
    )


def test_what_the_kernel_is_asked_for(monkeypatch: pytest.MonkeyPatch, emulated_vnni: ctypes.CDLL) -> None:
    """Many patches in bfloat16 without gradients, in whole vectors, where no AMX is: else attention stays as it was."""
    patches = module.SHORTEST_TOKENS
    images = torch.zeros(3, patches, 2, 64, dtype=torch.bfloat16)
    for path in ("torch", "avx2"):
        if path == "torch" or PATHS.index(path) <= PATHS.index(choice().path):
            with forced(path):
                assert not prefers_int8_attention(*images)
    monkeypatch.setattr(module, "kernel", emulated_kernel(emulated_vnni, "avx512"))
    monkeypatch.setattr(module, "choice", lambda: type(choice())("avx512_bf16", ""))
    assert prefers_int8_attention(*images)
    assert not prefers_int8_attention(*images[:, 1:])
    assert not prefers_int8_attention(*images.float())
    assert not prefers_int8_attention(*images[..., :40])
    assert not prefers_int8_attention(*images.clone().requires_grad_())
    monkeypatch.setattr(module, "choice", lambda: type(choice())("amx", ""))
    assert not prefers_int8_attention(*images)


def test_without_a_kernel_it_says_so() -> None:
    with forced("torch"), pytest.raises(RuntimeError, match="prefers_int8_attention"):
        int8_attention(*draw(1, 1, 16))
