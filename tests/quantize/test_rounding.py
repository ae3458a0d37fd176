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


@pytest.mark.parametrize(("scheme", "bound"), [("int8", 1 / 254), ("int4", 1 / 8), ("int3", 1 / 4)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "zero", "one"])
def test_every_weight_is_within_its_bound(scheme: str, bound: float, kind: str) -> None:
    """Half a step of 8 bits, and of the others a whole one of what the largest weight allows: some are clipped."""
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
    if kind == "one" and scheme != "int3":  # whose levels have no zero
        assert torch.allclose(values, matrix, rtol=2**-10)


def test_the_scale_that_is_found_beats_the_plain_one() -> None:
    groups = normal(500, 1, 32)
    extremes = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    errors = []
    for grid in (Grid(4, extremes / -8), fit(groups, 4)):
        errors.append((grid.values(grid.codes(groups)) - groups).square().sum(-1))
    assert (errors[1] <= errors[0] * 1.001).all()
    assert errors[1].sum() < 0.9 * errors[0].sum()


@pytest.mark.parametrize(("columns", "bits"), [(512, 3.3125), (96, 3.5)])
def test_three_bits_have_the_size_and_error_that_they_should(columns: int, bits: float) -> None:
    """The best that 8 equally spaced codes and a searched scale of either sign reach in groups of 32 is 16.3 %."""
    matrix = normal(200, columns)
    weight = round_to("int3", matrix)
    assert 8 * weight.nbytes == bits * 208 * columns  # whole tiles of rows
    assert float((values_of(weight) - matrix).norm() / matrix.norm()) < 0.158


def test_super_scales_lose_nothing_where_groups_are_of_very_different_sizes() -> None:
    """Each group's error is that of a free scale, or small beside its largest neighbour's 127th part."""
    matrix = normal(16, 256) * torch.tensor([1.0, 0.5, 0.01, 0.0, 3.0, 1e-4, 1.0, 0.1]).repeat_interleave(32)
    free = fit(matrix.unflatten(-1, (-1, 32)), 3)
    groups = matrix.unflatten(-1, (-1, 32))
    best = (free.values(free.codes(groups)) - groups).norm(dim=-1)
    found = (values_of(round_to("int3", matrix)).unflatten(-1, (-1, 32)) - groups).norm(dim=-1)
    # A scale is off by half a multiplier at most, and the weights that it stands for by 16 times that.
    room = free.scales.abs().amax(-1, keepdim=True) / 127 / 2 * 16 * 32**0.5
    assert (found <= best + room).all()
    assert found.norm() < 1.01 * best.norm()


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


@pytest.mark.parametrize(("bits", "columns"), [(4, 128), (3, 128), (3, 256)])
def test_what_is_compensated_changes_less_of_the_outputs_and_the_error_is_measured_right(
    bits: int, columns: int
) -> None:
    matrix, inputs = normal(64, columns), normal(1000, columns, seed=1) @ normal(columns, columns, seed=2)
    inputs[:, 5] = 0  # an input that never came
    gram = inputs.T @ inputs
    found = {}
    for name, weight in {
        "nearest": round_to(f"int{bits}", matrix),
        "compensated": round_compensated(matrix, upper_factor(gram), bits),
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


@pytest.mark.parametrize("bits", [3, 4])
def test_no_inputs_at_all_is_plain_rounding(bits: int) -> None:
    matrix = normal(16, 64)
    weight = round_compensated(matrix, upper_factor(torch.zeros(64, 64)), bits)
    assert torch.equal(weight.codes, round_to(f"int{bits}", matrix).codes)
