"""Adapters' products with few tokens: right within their rounding on every path, and the same for each row alone."""

from __future__ import annotations

import pytest
import torch

from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.low_rank import Part, add_low_rank

KERNEL_PATHS = [path for path in ("avx2", "avx512_bf16") if PATHS.index(path) <= PATHS.index(choice().path)]
EPS = torch.finfo(torch.bfloat16).eps


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).bfloat16()


def parts_of(columns: int, outputs: int) -> list[Part]:
    """Three adapters of different ranks on some of 25 rows, one of them twice."""
    placed = ((1, 0, 1), (16, 2, 7), (5, 7, 23), (1, 24, 25))
    return [
        Part(numbers(rank, columns, seed=rank), numbers(rank, outputs, seed=rank).t(), 0.5 * rank, first, last)
        for rank, first, last in placed
    ]


@pytest.mark.parametrize("path", ["torch", *KERNEL_PATHS])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("columns", "outputs"), [(31, 1), (64, 64), (2113, 130), (96, 515)])
def test_every_row_gets_its_own_adapter(path: str, threads: int, columns: int, outputs: int) -> None:
    before, parts = torch.get_num_threads(), parts_of(columns, outputs)
    base, wide = numbers(25, outputs + 3)[:, 1 : outputs + 1], numbers(25, columns + 2)
    inputs, out = wide[:, 1 : columns + 1], base.clone()
    torch.set_num_threads(threads)
    try:
        with forced(path):
            add_low_rank(out, inputs, parts)
    finally:
        torch.set_num_threads(before)
    exact, bound = base.double(), base.double().abs() * EPS
    for a_RK, b_NR, scale, first, last in parts:
        low = inputs[first:last].double() @ a_RK.double().T
        exact[first:last] += scale * low @ b_NR.double().T
        # A's results and, in PyTorch, B's are rounded to bfloat16, and the sum.
        size = low.abs() + columns * 2**-24 * (inputs[first:last].double().abs() @ a_RK.double().abs().T)
        bound[first:last] += 2 * EPS * scale * size @ b_NR.double().abs().T
    assert ((out.double() - exact).abs() <= bound).all()
    assert torch.equal(out[[1, 23]], base[[1, 23]]), "rows of no adapter stay"


@pytest.mark.parametrize("path", KERNEL_PATHS)
def test_a_row_has_the_same_bits_alone(path: str) -> None:
    (part, *_), base, inputs = parts_of(2113, 130)[1:], numbers(8, 130), numbers(8, 2113)
    together = base.clone()
    with forced(path):
        add_low_rank(together, inputs, [part._replace(first=0, last=8)])
        for row in range(8):
            alone = base[row : row + 1].clone()
            add_low_rank(alone, inputs[row : row + 1], [part._replace(first=0, last=1)])
            assert torch.equal(alone[0], together[row])
