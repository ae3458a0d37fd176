"""Rounding: never worse than the plain way, best for the inputs it knows, and right about its own error."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tessera.kernels.packed_weight import unpack_codes
from tessera.kernels.quantized_weight import values_of
from tessera.quantize.gptq import DAMPING, round_compensated, upper_factor
from tessera.quantize.rounding import ErrorSum, Grid, fit, round_to


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("scheme", "bound"), [("int8", 1 / 254), ("int4", 1 / 8)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "zero", "one"])
def test_every_weight_is_within_its_bound(scheme: str, bound: float, kind: str) -> None:
    """Half a step of 8 bits, and of 4 a whole one of what the largest weight allows: some are clipped."""
    matrix = normal(40, 96)
    if kind == "heavy":
        matrix = matrix**5
    elif kind == "zero":
        matrix[:7] = 0
    elif kind == "one":
        matrix = torch.zeros(40, 96).index_fill_(1, torch.tensor([3]), 0.5)
    values = values_of(round_to(scheme, matrix))
    largest = matrix.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    changed = (values - matrix).unflatten(-1, (-1, 32)).abs()
    slack = largest * 2**-10 + 2**-24  # the scale is a float16
    assert (changed <= largest * (bound if scheme == "int8" else 2 * bound) + slack).all()
    if kind == "one":
        assert torch.allclose(values, matrix, rtol=2**-10)


def test_the_scale_that_is_found_beats_the_plain_one() -> None:
    groups = normal(500, 1, 32)
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    errors = []
    for grid in (Grid(4, extremes / -8), fit(groups, 4)):
        errors.append((grid.values(grid.codes(groups)) - groups).square().sum(-1))
    assert (errors[1] <= errors[0] * 1.001).all()
    assert errors[1].sum() < 0.9 * errors[0].sum()


def gptq_by_the_book(matrix: Tensor, gram: Tensor, grids: list[Tensor]) -> Tensor:
    """The columns' codes by the steps of arXiv 2210.17323, in float64: each error is spread by the inverse's factor."""
    hessian = gram.double().clone()
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(hessian.inverse(), upper=True)
    left, codes = matrix.double().clone(), torch.empty_like(matrix)
    for column in range(matrix.shape[1]):
        scale = grids[column // 32].double()
        codes[:, column] = (left[:, column] / scale).round().clamp(-8, 7) + 8
        error = (left[:, column] - (codes[:, column] - 8) * scale) / upper[column, column]
        left[:, column:] -= error[:, None] * upper[column, column:]
    return codes


def test_compensated_codes_are_those_of_gptq() -> None:
    matrix, inputs = normal(24, 96), normal(400, 96, seed=1) @ normal(96, 96, seed=2)
    gram = inputs.T @ inputs
    weight = round_compensated(matrix, upper_factor(gram), 4)
    scales = weight.scales.float().transpose(1, 2).reshape(32, 3)[:24]
    expected = gptq_by_the_book(matrix, gram, list(scales.T))
    same = unpack_codes(weight) == expected
    # A weight that lies between two codes may fall to the other side, and moves those after it in its row.
    assert same.all(dim=1).float().mean() > 0.9


def test_what_is_compensated_changes_less_of_the_outputs_and_the_error_is_measured_right() -> None:
    matrix, inputs = normal(64, 128), normal(1000, 128, seed=1) @ normal(128, 128, seed=2)
    inputs[:, 5] = 0  # an input that never came
    gram = inputs.T @ inputs
    found = {}
    for name, weight in {
        "nearest": round_to("int4", matrix),
        "compensated": round_compensated(matrix, upper_factor(gram), 4),
    }.items():
        outputs, weights = ErrorSum(gram), ErrorSum()
        for total in (outputs, weights):
            total.add(matrix, weight)
        changed = values_of(weight) - matrix
        wanted = float((inputs @ changed.T).norm() / (inputs @ matrix.T).norm())
        assert math.isclose(outputs.relative, wanted, rel_tol=1e-3)
        assert math.isclose(weights.relative, float(changed.norm() / matrix.norm()), rel_tol=1e-4)
        found[name] = outputs.relative
    assert found["compensated"] < 0.8 * found["nearest"]


def test_no_inputs_at_all_is_plain_rounding() -> None:
    matrix = normal(16, 64)
    weight = round_compensated(matrix, upper_factor(torch.zeros(64, 64)), 4)
    assert torch.equal(weight.codes, round_to("int4", matrix).codes)
