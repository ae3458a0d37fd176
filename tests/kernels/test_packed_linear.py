"""Products with packed weights by every path of the library, against the 8-bit twin."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.packed_linear import linear_int8_twin, linear_twin, packed_linear, quantize_inputs
from tessera.kernels.packed_weight import PackedWeight, dequantize, group_values, pack, unpack_levels
from tests.kernels.test_packed_weight import KINDS, random_weight

AVAILABLE = PATHS[1 : PATHS.index(choice().path) + 1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD_KINDS = [*KINDS, (8, "minimums"), (8, "super")]  # the layout allows them, though no format has them


@pytest.fixture(params=["avx2", "avx512"])
def path(request: pytest.FixtureRequest) -> object:
    """Each path that this kernel has; the ones above avx512 share its code, but for prefill on AMX."""
    if request.param not in AVAILABLE:
        pytest.skip(f"no {request.param}: {choice().reason}")
    with forced(request.param):
        yield request.param


def random_inputs(tokens: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(tokens + columns)
    # Groups of very different sizes, as activations have them.
    sizes = torch.randn(tokens, columns // 32, 1, generator=generator).exp()
    return (torch.randn(tokens, columns // 32, 32, generator=generator) * sizes).flatten(1)


def summation_bound(inputs_TK: Tensor, weight: PackedWeight) -> Tensor:
    """What float32 may lose: half a unit of 2^-23 for each of the operations on a group (at most two products and a
    sum for the codes, two for the minimum, each rounding a partial sum no larger than the sum of magnitudes)."""
    codes, scales_TG = quantize_inputs(inputs_TK)
    rounded = (codes.double().abs() * scales_TG[..., None].double()).flatten(1)
    weight_scales, offsets = (values.double().abs()[..., None] for values in group_values(weight))
    magnitudes = unpack_levels(weight).double().unflatten(1, (-1, 32)) * weight_scales + offsets
    return (5 * weight.shape[1] / 32) * 2**-24 * (rounded @ magnitudes.flatten(1).T)


@pytest.mark.parametrize(("bits", "kind"), ODD_KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (16, 256), (37, 544), (170, 1280)])
def test_products_agree_with_the_twin(path: str, bits: int, kind: str, rows: int, columns: int) -> None:
    """Every width of a panel, several panels with a rest, several blocks of tokens; less than a tile, many chunks."""
    if kind == "super" and columns % 256:
        pytest.skip("super-scales stand for 256 columns")
    weight = random_weight(bits, rows, columns, kind)
    everything = random_inputs(550, columns)
    exact, bound = linear_int8_twin(everything, weight), summation_bound(everything, weight)
    edges = [0, *(n * (n + 1) // 2 for n in range(1, 18)), 186, 550]  # 1 to 17 tokens, then 33, then 364
    for start, stop in pairwise(edges):
        out = packed_linear(everything[start:stop], weight)
        assert out.shape == (stop - start, rows)
        assert ((out - exact[start:stop]).abs() <= bound[start:stop]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_rounded_as_the_twin_rounds_them(path: str, dtype: torch.dtype) -> None:
    """A weight whose row r takes input r out shows codes and scales themselves: equal bit for bit."""
    codes = torch.full((32, 32), 8, dtype=torch.uint8) + torch.eye(32, dtype=torch.uint8)
    weight = pack(codes, torch.ones(32, 1, dtype=torch.float16), bits=4)
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.arange(-44, 39)[:, None]
    inputs = torch.cat(
        [
            torch.randn(len(sizes), 32, generator=generator) * sizes,
            torch.cat([torch.tensor([127.0]), torch.arange(31) - 15.5])[None],  # halves go to the even number
            torch.zeros(1, 32),
            -torch.zeros(1, 32),
        ]
    ).to(dtype)
    inputs = inputs[inputs.isfinite().all(1)]
    quantized, scales = quantize_inputs(inputs)
    expected = (quantized.float() * scales[..., None]).flatten(1).to(dtype)
    assert torch.equal(packed_linear(inputs, weight), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_are_rounded_once(path: str, dtype: torch.dtype) -> None:
    weight = random_weight(4, 53, 544, "minimums")
    inputs = random_inputs(21, 544).to(dtype)
    assert torch.equal(packed_linear(inputs, weight), packed_linear(inputs.float(), weight).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_inputs_and_weights_lie_changes_nothing(path: str, dtype: torch.dtype) -> None:
    weight, inputs = random_weight(4, 53, 768, "super"), random_inputs(19, 768).to(dtype)
    expected = packed_linear(inputs, weight)
    wide = torch.full((19, 771), 7.0, dtype=dtype)
    wide[:, 1:769] = inputs
    assert torch.equal(packed_linear(wide[:, 1:769], weight), expected)
    assert torch.equal(packed_linear(inputs.T.contiguous().T, weight), expected)
    assert torch.equal(packed_linear(inputs[::2], weight), expected[::2])
    shifted = {name: _shifted(tensor) for name, tensor in weight.tensors.items()}
    assert torch.equal(packed_linear(inputs, dataclasses.replace(weight, **shifted)), expected)
    assert torch.equal(packed_linear(inputs, weight.tiles(1, 3)), expected[:, 16:48])


def _shifted(tensor: Tensor) -> Tensor:
    """The same numbers one element further on, where no vector is aligned."""
    room = tensor.new_empty(tensor.numel() + 1)
    room[1:] = tensor.flatten()
    return room[1:].view_as(tensor)


def test_a_view_that_skips_groups_goes_to_the_twin(path: str) -> None:
    weight, inputs = random_weight(4, 53, 768, "centred"), random_inputs(5, 768)
    half = weight.groups(8, 24)
    assert torch.equal(packed_linear(inputs[:, 256:], half), linear_twin(inputs[:, 256:], half))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_a_token_that_is_no_number_keeps_to_itself(path: str, bits: int, kind: str, bad: float) -> None:
    weight, inputs = random_weight(bits, 37, 512, kind), random_inputs(20, 512)
    clean = packed_linear(inputs, weight)
    inputs[[3, 18], [511, 40]] = bad
    out = packed_linear(inputs, weight)
    expected = clean.clone()
    expected[[3, 18]] = torch.nan
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def test_threads_and_company_change_nothing(path: str) -> None:
    """A token's outputs are the same bits alone, among others, on any number of threads, and from several callers."""
    weight, inputs = random_weight(4, 400, 1280, "minimums"), random_inputs(70, 1280)
    expected = packed_linear(inputs, weight)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(packed_linear(inputs, weight), expected)
            with ThreadPoolExecutor(4) as callers:
                for token, out in enumerate(callers.map(lambda row: packed_linear(row, weight), inputs.split(1))):
                    assert torch.equal(out[0], expected[token])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("bits", "kind"), ODD_KINDS)
def test_a_panel_of_any_width_gives_a_token_the_same_bits(path: str, bits: int, kind: str) -> None:
    """With few tokens a tile is done in one pass, with many in two."""
    weight, inputs = random_weight(bits, 37, 768, kind), random_inputs(19, 768)
    expected = torch.cat([packed_linear(row, weight) for row in inputs.split(1)])
    for tokens in range(2, 20):
        assert torch.equal(packed_linear(inputs[:tokens], weight), expected[:tokens])


def test_gradients_reach_the_inputs(path: str) -> None:
    weight = random_weight(4, 37, 256, "minimums")
    inputs = random_inputs(3, 256).requires_grad_()
    packed_linear(inputs, weight).sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, dequantize(weight).sum(0).expand(3, -1), rtol=1e-4, atol=1e-4)


def test_no_tokens(path: str) -> None:
    assert packed_linear(torch.empty(0, 256), random_weight(4, 37, 256, "centred")).shape == (0, 37)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs of 288 columns do not fit a weight of 256 columns"):
        packed_linear(torch.zeros(1, 288), random_weight(4, 37, 256, "centred"))


def test_parts_of_a_wrong_size_are_refused() -> None:
    weight = random_weight(4, 37, 256, "centred")
    with pytest.raises(ValueError, match="scales of a packed weight"):
        dataclasses.replace(weight, scales=weight.scales[:, :-1])
    with pytest.raises(ValueError, match="lacks parts"):
        weight.groups(0, 0)
    with pytest.raises(ValueError, match="lacks parts"):
        dataclasses.replace(random_weight(4, 37, 256, "super"), super_minimums=None)
