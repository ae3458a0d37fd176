"""Products of few tokens: right within the rounding of their sums, on every path, and the same for each token alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tessera.kernels import skinny_linear
from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.skinny_linear import MOST_TOKENS, linear

KERNEL_PATHS = [path for path in ("avx2", "avx512_bf16") if PATHS.index(path) <= PATHS.index(choice().path)]
EPS = torch.finfo(torch.bfloat16).eps

pytestmark = pytest.mark.skipif(not KERNEL_PATHS, reason=f"no kernels: {choice().reason}")


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_linear, "LEAST_WEIGHTS", 1)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("path", KERNEL_PATHS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 31), (64, 64), (130, 2113), (9, 4096), (2050, 100)])
def test_products_are_right_within_their_rounding(path: str, threads: int, rows: int, columns: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with forced(path), torch.inference_mode():
            for tokens in (1, 2, 3, 4, 7, 8, MOST_TOKENS):
                inputs, weight = numbers(tokens, columns), numbers(rows, columns)
                exact = inputs.double() @ weight.double().T
                # Each of the sum's terms is rounded at most `columns` times in float32, and the result once.
                size = inputs.double().abs() @ weight.double().abs().T
                bound = exact.abs() * EPS / 2 + size * columns * 2**-24
                assert ((linear(inputs, weight).double() - exact).abs() <= bound).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("path", KERNEL_PATHS)
def test_a_token_has_the_same_bits_alone(path: str) -> None:
    inputs, weight = numbers(MOST_TOKENS, 2113), numbers(130, 2113)
    with forced(path), torch.inference_mode():
        together = linear(inputs, weight)
        for count in (1, 3, 6):
            assert torch.equal(linear(inputs[:count], weight), together[:count])


def test_shapes_strides_and_a_bias() -> None:
    weight, bias = numbers(24, 64), numbers(24)
    wide = numbers(2, 3, 128)
    with torch.inference_mode():
        for inputs in (wide[..., 32:96], wide[..., ::2], wide[0, 0, :64]):
            expected = F.linear(inputs.float(), weight.float(), bias.float())
            found = linear(inputs, weight, bias)
            assert found.shape == expected.shape
            torch.testing.assert_close(found.float(), expected, rtol=4 * EPS, atol=8 * EPS)


def test_what_is_no_number_stays_in_its_token() -> None:
    inputs, weight = numbers(3, 64), numbers(8, 64)
    inputs[1, 5], inputs[2, 0] = float("nan"), float("inf")
    with torch.inference_mode():
        out = linear(inputs, weight)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()
    assert not out[2].isfinite().any()


@pytest.mark.parametrize(
    ("tokens", "dtype", "transposed"),
    [(MOST_TOKENS + 1, torch.bfloat16, False), (1, torch.float32, False), (1, torch.bfloat16, True)],
)
def test_everything_else_is_torchs(
    tokens: int, dtype: torch.dtype, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skinny_linear, "kernel", lambda *arguments: pytest.fail("the kernel was asked for"))
    inputs, weight = numbers(tokens, 64).to(dtype), numbers(64, 64).to(dtype)
    weight = weight.T if transposed else weight
    with torch.inference_mode():
        assert torch.equal(linear(inputs, weight), F.linear(inputs, weight))
    learned = weight.clone().requires_grad_()
    linear(inputs, learned).sum().backward()  # type: ignore[no-untyped-call]
    assert learned.grad is not None


def test_a_wrong_width_is_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size"):
        linear(numbers(1, 32), numbers(8, 64))


@pytest.mark.parametrize("bias", [numbers(8).float(), numbers(8).half(), numbers(1), numbers(9), numbers(2, 8)])
def test_a_bias_that_does_not_fit_is_refused_as_torch_does(bias: torch.Tensor) -> None:
    inputs, weight = numbers(2, 64), numbers(8, 64)
    with torch.inference_mode():
        try:
            wanted = F.linear(inputs, weight, bias)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                linear(inputs, weight, bias)
            return
        assert torch.equal(linear(inputs, weight, bias), wanted)


def test_a_weight_of_one_row_may_lack_it_as_in_torch() -> None:
    with torch.inference_mode():
        assert linear(numbers(2, 64), numbers(64)).shape == (2,)
