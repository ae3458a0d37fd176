"""Products in 16 bits where the processor has none: the exact sum, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import wide_linear
from tests.kernels.emulation import forced_here

SHAPES = [((5, 7), 3), ((1, 64), 130), ((2, 3, 48), 96), ((33, 2048), 1100), ((0, 8), 4), ((9,), 5)]
DTYPES = [torch.bfloat16, torch.float16]
MULTIPLIES = wide_linear._multiplies.__wrapped__


@pytest.fixture(autouse=True, params=["avx2", "torch"])
def _lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wide_linear, "_multiplies", lambda dtype: False)
    monkeypatch.setattr(wide_linear, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with forced_here(request.param):
        yield


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(*shape: int, most: int = 8, seed: int = 0) -> Tensor:
    """Whole numbers up to `most`, in bfloat16: float32 holds the sums of their products."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).bfloat16()


def bound(exact: Tensor, dtype: torch.dtype, columns: int) -> Tensor:
    """One rounding to `dtype`, and float32's error of a sum of `columns` products of about one."""
    return exact.abs() * torch.finfo(dtype).eps / 2 + columns * 2**-23


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_the_product_is_exact_but_for_one_rounding(shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    inputs, weight = random(*shape, dtype=dtype), random(rows, shape[-1], dtype=dtype, seed=1)
    found = wide_linear.linear(inputs, weight)
    exact = F.linear(inputs.double(), weight.double())
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert bool(((found.double() - exact).abs() <= bound(exact, dtype, shape[-1])).all())


def test_a_weight_of_several_panels_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = whole(6, 40), whole(70, 40, seed=1)
    at_once = wide_linear.linear(inputs, weight)
    monkeypatch.setattr(wide_linear, "PANEL_NUMBERS", 40 * 16)
    assert torch.equal(wide_linear.linear(inputs, weight), at_once)


@pytest.mark.parametrize("shape", [(50, 40), (1, 40), (50, 1), (1, 1)])
@pytest.mark.parametrize(
    "strides", [(70, 1), (1, 70), (100, 2), (2, 100), (0, 1), (1, 0), (0, 0), (1, 1)]
)  # rows apart, columns apart, both; one row or column or number for all; rows that overlap
def test_either_side_may_have_any_strides(shape: tuple[int, int], strides: tuple[int, int]) -> None:
    numbers = whole(6000)
    strided, plain = numbers[1:].as_strided(shape, strides), whole(30, shape[1], seed=1)
    exact = (strided.double() @ plain.double().T).bfloat16()
    assert torch.equal(wide_linear.linear(strided, plain), exact)
    assert torch.equal(wide_linear.linear(plain, strided), exact.T)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_products_of_matrices_are_added_in_place(dtype: torch.dtype) -> None:
    into, left, right = (random(*shape, dtype=dtype) for shape in ((4, 6), (4, 9), (9, 6)))
    exact = left.double() @ right.double()
    assert bool(((wide_linear.product(left, right) - exact).abs() <= bound(exact, dtype, 9)).all())
    wanted = into.double() - 0.5 * exact
    found = wide_linear.add_product(into, left, right, -0.5)
    assert found is into
    assert bool(((found - wanted).abs() <= bound(exact, dtype, 9) + bound(wanted, dtype, 9)).all())


# (rows, depth, columns): parts of fours and of panels of 24; of the 256 steps whose sum begins anew, and of eight of
# them; several panels of which the last are fewer than four; more than the 256 rows that stay in a cache.
EDGES = [(1, 1, 1), (4, 8, 24), (3, 7, 23), (5, 9, 25), (13, 257, 49), (6, 520, 121), (2, 255, 199), (300, 300, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("edges", EDGES)
def test_sums_that_float32_holds_are_exact(
    edges: tuple[int, int, int], turned: tuple[bool, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers laid out by rows or by columns, all rows at once or eight at a time."""
    rows, depth, columns = edges
    sides = [whole(count, depth, seed=count).to(dtype) for count in (rows, columns)]
    left, right = (side.T.contiguous().T if turns else side for side, turns in zip(sides, turned, strict=True))
    exact = (left.double() @ right.double().T).to(dtype)
    assert torch.equal(wide_linear.linear(left, right), exact)
    monkeypatch.setattr(wide_linear, "MOST_ROWS", 8)
    assert torch.equal(wide_linear.linear(left, right), exact)


def test_neither_threads_nor_neighbours_nor_strides_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    if wide_linear._kernel() is None:
        pytest.skip("PyTorch's products differ")
    inputs, weight = random(300, 600, dtype=torch.bfloat16), random(300, 600, dtype=torch.bfloat16, seed=1)
    at_once = wide_linear.linear(inputs, weight)
    for start, stop in ((0, 1), (1, 100), (100, 300)):
        assert torch.equal(wide_linear.linear(inputs[start:stop], weight), at_once[start:stop])
        assert torch.equal(wide_linear.linear(inputs, weight[start:stop]), at_once[:, start:stop])
    monkeypatch.setattr(wide_linear, "MOST_ROWS", 4)  # so that threads wait for each other 75 times in a product
    turned = [side.T.contiguous().T for side in (inputs, weight)]  # of which the left side is unpacked slowly
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in range(40):
            assert torch.equal(wide_linear.linear(*turned), at_once)
    finally:
        torch.set_num_threads(threads)


def test_bias_is_added_in_the_inputs_dtype() -> None:
    inputs, weight, bias = (random(*shape, dtype=torch.bfloat16) for shape in ((4, 8), (6, 8), (6,)))
    assert torch.equal(wide_linear.linear(inputs, weight, bias), wide_linear.linear(inputs, weight) + bias)


@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)])
def test_gradients_are_those_of_the_product_in_float64(trained: tuple[bool, bool]) -> None:
    inputs = random(5, 2, 24, dtype=torch.bfloat16).transpose(0, 1)
    weight = random(9, 24, dtype=torch.bfloat16, seed=1)
    given = random(9, 5, 2, dtype=torch.bfloat16, seed=2).permute(2, 1, 0)
    wide = [x.clone().requires_grad_(on) for x, on in zip((inputs, weight), trained, strict=True)]
    exact = [x.double().requires_grad_(on) for x, on in zip((inputs, weight), trained, strict=True)]
    wide_linear.linear(*wide).backward(given)
    F.linear(*exact).backward(given.double())
    for one, other, on in zip(wide, exact, trained, strict=True):
        assert (one.grad is not None) == on
        if one.grad is not None and other.grad is not None:
            assert one.grad.dtype == torch.bfloat16
            assert bool(((one.grad - other.grad).abs() <= bound(other.grad, torch.bfloat16, 24)).all())


def test_gradients_have_gradients() -> None:
    """Whole numbers so small that bfloat16 holds all of them."""

    def second(multiply: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        given = [whole(*shape, most=1, seed=shape[0]).to(dtype).requires_grad_() for shape in ((4, 3), (2, 3))]
        slopes = torch.autograd.grad(multiply(*given).square().sum(), given, create_graph=True)
        return torch.autograd.grad(slopes[0].sum() + slopes[1].sum(), given)

    found, exact = second(wide_linear.linear, torch.bfloat16), second(F.linear, torch.float64)
    assert all(torch.equal(one.double(), other) for one, other in zip(found, exact, strict=True))
    assert all(bool(each.any()) for each in exact)


def outcome(multiply: Callable[..., Tensor], *given: Tensor) -> tuple[str, ...]:
    """The shapes and dtypes of a product and its gradients, or PyTorch's class of error."""
    trained = [each.clone().requires_grad_(each.is_floating_point()) for each in given]
    try:
        found = multiply(*trained)
        found.sum().backward()
    except RuntimeError:
        return ("RuntimeError",)
    return tuple(f"{each.shape} {each.dtype}" for each in (found, *(each.grad for each in trained)) if each is not None)


@pytest.mark.parametrize(
    "shapes",
    [
        ((8, 1), (4, 8)), ((4, 2), (4, 8)), ((2, 4), (4, 8)), ((4, 16), (4, 8)), ((3, 8), (2, 4, 8)), ((3, 8), (8,)),
        ((3, 8), (4, 8), (2, 3, 4)), ((3, 8), (4, 8), (5,)), ((3, 8), (4, 8), (1,)),
        ((0, 8), (4, 8)), ((2, 0, 8), (4, 8)), ((3, 0), (4, 0)), ((3, 8), (0, 8)), ((8,), (4, 8)), ((2, 3, 8), (4, 8)),
    ],
)  # fmt: skip
def test_shapes_are_refused_or_served_as_by_pytorch(shapes: tuple[tuple[int, ...], ...]) -> None:
    given = [random(*shape, dtype=torch.bfloat16) for shape in shapes]
    assert outcome(wide_linear.linear, *given) == outcome(F.linear, *given)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("other", [torch.float32, torch.float16, torch.int8])
def test_mixed_dtypes_are_refused_as_by_pytorch(position: int, other: torch.dtype) -> None:
    given = [random(*shape, dtype=torch.bfloat16) for shape in ((3, 8), (4, 8), (4,))]
    given[position] = given[position].to(other)
    with pytest.raises(RuntimeError):
        F.linear(*given)
    with pytest.raises(RuntimeError):
        wide_linear.linear(*given)


@pytest.mark.parametrize("shapes", [((4, 6), (1, 9), (9, 6)), ((4, 6), (4, 9), (9, 1)), ((4, 6), (3, 12), (9, 6))])
def test_a_product_that_does_not_fit_is_not_added(shapes: tuple[tuple[int, ...], ...]) -> None:
    into, left, right = (random(*shape, dtype=torch.bfloat16) for shape in shapes)
    before = into.clone()
    with pytest.raises(RuntimeError):
        wide_linear.add_product(into, left, right)
    with pytest.raises(RuntimeError):
        wide_linear.add_product(into.float(), left, right)
    assert torch.equal(into, before)


def test_autocast_chooses_the_dtype() -> None:
    inputs, weight = random(3, 8, dtype=torch.bfloat16), random(4, 8)
    with torch.autocast("cpu", dtype=torch.float16):
        assert wide_linear.linear(inputs, weight).dtype == torch.float16


@pytest.mark.parametrize(("tokens", "wide"), [(2, False), (3, True)])
def test_few_tokens_take_pytorchs_product(monkeypatch: pytest.MonkeyPatch, tokens: int, wide: bool) -> None:
    panels: list[int] = []
    monkeypatch.setattr(wide_linear, "FEWEST_TOKENS", 3)
    monkeypatch.setattr(wide_linear, "_product", lambda inputs, weight_NK: panels.append(len(inputs)))
    wide_linear.linear(random(tokens, 8, dtype=torch.bfloat16), random(4, 8, dtype=torch.bfloat16))
    assert panels == [tokens] * wide


def test_other_dtypes_and_processors_take_pytorchs_product(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wide_linear.is_wide(random(2, 2))
    assert not wide_linear.is_wide(random(2, 2, dtype=torch.bfloat16).to("meta"))
    monkeypatch.setattr(wide_linear, "_multiplies", lambda dtype: True)
    assert not wide_linear.is_wide(random(2, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize(("widest", "ours"), [("AVX2", True), ("AVX512", False)])
def test_the_kernel_leaves_wider_instructions_to_pytorch(
    monkeypatch: pytest.MonkeyPatch, widest: str, ours: bool
) -> None:
    """As for float16 on most processors with AVX-512: it is multiplied in float32, in which PyTorch uses all lanes."""
    if wide_linear._kernel() is None:
        pytest.skip("no kernel to leave out")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    assert (wide_linear._kernel() is not None) == ours


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pytorch_without_onednn_has_no_products_in_16_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such builds lack the operators that tell."""
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not MULTIPLIES(dtype)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stay_in_their_row(bad: float) -> None:
    inputs, weight = random(3, 8, dtype=torch.bfloat16), random(4, 8, dtype=torch.bfloat16, seed=1)
    inputs[1, 2] = bad
    assert wide_linear.linear(inputs, weight).isfinite().all(1).tolist() == [True, False, True]
