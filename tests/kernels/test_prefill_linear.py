"""Prefill's products with packed weights on emulated AMX tiles, against the dequantized weight."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tessera.kernels import prefill_linear as module
from tessera.kernels.packed_linear import packed_linear
from tessera.kernels.packed_weight import dequantize
from tessera.kernels.prefill_linear import prefill_linear
from tests.kernels.emulation import emulated_kernel
from tests.kernels.test_packed_weight import KINDS, random_weight

# Weights (outputs, columns): less than a tile; an odd number of tiles; more than a panel; a part of a stretch.
SHAPES = [(5, 32), (37, 544), (300, 256), (275, 1056)]
STORED = [
    (*kind, *shape) for shape in [*SHAPES, (49, 768)] for kind in KINDS if kind[1] != "super" or not shape[1] % 256
]


@pytest.fixture(autouse=True)
def _emulated(emulated_amx: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernel", emulated_kernel(emulated_amx))
    monkeypatch.setattr(module, "SHORTEST_TOKENS", 1)


@pytest.mark.parametrize(("bits", "kind", "rows", "columns"), STORED)
def test_the_weight_is_unpacked_bit_for_bit(bits: int, kind: str, rows: int, columns: int) -> None:
    """Inputs that choose one column each give that column, rounded to bfloat16 as `dequantize` rounds it."""
    weight = random_weight(bits, rows, columns, kind)
    out = prefill_linear(torch.eye(columns, dtype=torch.bfloat16), weight)
    assert out is not None
    assert torch.equal(out.T, dequantize(weight, torch.bfloat16))


@pytest.mark.parametrize("tokens", [1, 33, 530])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_products_of_any_size(tokens: int, rows: int, columns: int) -> None:
    """Sums are float32, outputs rounded to 8 bits; inputs may be parts of wider rows."""
    weight = random_weight(4, rows, columns, "minimums")
    inputs = torch.randn(tokens, columns + 7, generator=torch.Generator().manual_seed(tokens)).bfloat16()[:, 3:-4]
    exact = inputs.double() @ dequantize(weight, torch.bfloat16).double().T
    out = prefill_linear(inputs, weight)
    assert out is not None
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-4)


def test_threads_and_company_change_nothing() -> None:
    weight = random_weight(4, 300, 544, "centred")
    inputs = torch.randn(700, 544, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = prefill_linear(inputs, weight)
    assert whole is not None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = prefill_linear(inputs, weight)
    finally:
        torch.set_num_threads(before)
    part = prefill_linear(inputs[100:133], weight)
    assert again is not None
    assert part is not None
    assert torch.equal(again, whole)
    assert torch.equal(part, whole[100:133])


def test_a_token_that_is_no_number_keeps_to_itself() -> None:
    weight = random_weight(8, 40, 64, "centred")
    inputs = torch.randn(34, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    clean = prefill_linear(inputs, weight)
    inputs[5, 7] = float("nan")
    out = prefill_linear(inputs, weight)
    assert clean is not None
    assert out is not None
    assert out[5].isnan().all()
    assert torch.equal(out[6:], clean[6:])
    assert torch.equal(out[:5], clean[:5])


def test_many_tokens_take_the_panels_and_few_the_integer_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORTEST_TOKENS", 32)
    weight = random_weight(4, 40, 64, "centred")
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(packed_linear(inputs, weight), prefill_linear(inputs, weight))
    assert prefill_linear(inputs[1:], weight) is None
    assert prefill_linear(inputs.float(), weight) is None
    assert not packed_linear(inputs[1:], weight).isnan().any()
