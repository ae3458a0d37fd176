"""The elementwise chains against their twins: every path of the library, odd widths, strided views, autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tessera.kernels import elementwise
from tessera.kernels.library import PATHS, choice, forced

AVAILABLE = PATHS[1 : PATHS.index(choice().path) + 1]
pytestmark = pytest.mark.skipif(not AVAILABLE, reason=f"no kernel library: {choice().reason}")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=[path for path in AVAILABLE if path in ("avx2", "avx512")], autouse=True)
def _path(request: pytest.FixtureRequest) -> object:
    with forced(request.param):
        yield


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 3


def exact_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def assert_rounded(ours: Tensor, exact: Tensor) -> None:
    """bfloat16: within half a unit in the last place (2^-8) and float32's own error; float32: a few units."""
    relative = 2**-7.99 if ours.dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(ours.double(), exact, rtol=relative, atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 16), (5, 88), (70, 1024), (2, 5120)])
def test_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    x, weight = numbers(rows, width + 3).to(dtype)[:, 1 : width + 1], numbers(width, seed=1).to(dtype)
    assert_rounded(elementwise.rms_norm(x, weight, 1e-5), exact_norm(x, weight, 1e-5))
    together, alone = elementwise.rms_norm(x, weight, 1e-5), elementwise.rms_norm(x[-1:], weight, 1e-5)
    assert torch.equal(together[-1:], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 33), (40, 4096)])
def test_gate(rows: int, width: int, dtype: torch.dtype) -> None:
    gate, up = numbers(rows, width).to(dtype), numbers(rows, width + 5, seed=1).to(dtype)[:, 2:-3]
    exact = gate.double() * gate.double().sigmoid() * up.double()
    assert_rounded(elementwise.silu_gate(gate.clone(), up), exact)


def test_gate_of_extremes() -> None:
    gate = torch.tensor([0.0, -0.0, 1e-30, -87.0, -89.0, -200.0, 90.0, 3e38, float("inf"), float("nan")])
    ours = elementwise.silu_gate(gate.clone(), torch.ones_like(gate))
    torch.testing.assert_close(ours, elementwise.silu_gate_twin(gate, torch.ones_like(gate)), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 2), (5, 3, 88), (200, 16, 64), (9, 8, 128)])
def test_rotation_gives_the_bits_of_its_twin(tokens: int, heads: int, width: int, dtype: torch.dtype) -> None:
    """Also where queries and keys are parts of one row, as a joint projection would lay them."""
    joint = numbers(tokens, 2 * heads * width + 1).to(dtype)
    angles = numbers(tokens, width // 2, seed=1)
    for start in (0, heads * width + 1):
        view = joint[:, start : start + heads * width].unflatten(-1, (heads, width))
        others = joint.clone()
        expected = elementwise.rotate_twin(view.clone(), angles.cos(), angles.sin())
        assert torch.equal(elementwise.rotate(view, angles.cos(), angles.sin()), expected)
        others[:, start : start + heads * width] = expected.flatten(1)
        assert torch.equal(joint, others), "memory beside the view was written"


def test_what_does_not_fit_is_the_twins() -> None:
    """Kernels read from bare addresses: a weight of another width is refused, other angles are the twin's."""
    x = numbers(3, 8)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        elementwise.rms_norm(x, numbers(16), 1e-5)
    heads, angles = x.unflatten(-1, (2, 4)), numbers(1, 2).double()
    for cos, sin in ((angles.cos(), angles.sin()), (angles.float().cos(), angles.float().sin())):
        assert torch.equal(elementwise.rotate(heads.clone(), cos, sin), elementwise.rotate_twin(heads, cos, sin))


def test_autograd_takes_the_twins() -> None:
    x, weight = numbers(3, 8).requires_grad_(), numbers(8, seed=1)
    normed = elementwise.rms_norm(x, weight, 1e-5)
    gated = elementwise.silu_gate(normed, normed.flip(0))
    elementwise.rotate(gated.unflatten(-1, (2, 4)), numbers(3, 2), numbers(3, 2, seed=2)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("operation", ["norm", "gate", "rotation"])
def test_more_threads_give_the_same(operation: str) -> None:
    x, other = numbers(600, 8, 32), numbers(600, 8, 32, seed=1)
    run = {
        "norm": lambda: elementwise.rms_norm(x, other[0, 0], 1e-5),
        "gate": lambda: elementwise.silu_gate(x.clone(), other),
        "rotation": lambda: elementwise.rotate(x.clone(), other[:, 0, :16], other[:, 1, :16]),
    }[operation]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        torch.set_num_threads(3)
        assert torch.equal(run(), alone)
    finally:
        torch.set_num_threads(before)
