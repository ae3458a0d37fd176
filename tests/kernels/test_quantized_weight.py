"""Training through a quantized weight: the gradient is the dense one's, and nothing is kept for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tessera.kernels import quantized_weight
from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.quantized_weight import QuantizedWeight, quantized_linear, values_of
from tests.kernels.test_packed_weight import KINDS, random_weight

FORMS = [*KINDS, (8, "fp8")]


def some_weight(bits: int, kind: str, rows: int, columns: int) -> QuantizedWeight:
    if kind != "fp8":
        return random_weight(bits, rows, columns, kind)
    return Fp8Weight(*quantize_fp8(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("panel_columns", [256, 1024])
@pytest.mark.parametrize(("bits", "kind"), FORMS)
def test_the_gradient_is_that_of_the_dequantized_matrix(
    bits: int, kind: str, panel_columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole panels of columns, and a last one that is none."""
    monkeypatch.setattr(quantized_weight, "PANEL_COLUMNS", panel_columns)
    weight = some_weight(bits, kind, 37, 768)
    ours, dense = (drawn(5, 768).to(dtype).requires_grad_() for _ in range(2))
    gradient_TN = drawn(5, 37).to(dtype)
    product_TN = quantized_linear(ours, weight)
    expected_TN = dense @ values_of(weight, dtype).T
    product_TN.backward(gradient_TN)
    expected_TN.backward(gradient_TN)
    assert ours.grad is not None
    # The same products, summed in another order: a few units of what each row's largest number is rounded to.
    for found, expected in ((product_TN, expected_TN), (ours.grad, dense.grad)):
        bound = 8 * torch.finfo(dtype).eps * float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("bits", "kind"), FORMS)
def test_nothing_is_saved_for_backward(bits: int, kind: str) -> None:
    """Where the dense product keeps its matrix, autograd keeps no byte."""
    weight = some_weight(bits, kind, 64, 2048)

    def saved_bytes(matrix: QuantizedWeight | Tensor) -> int:
        inputs, kept = drawn(3, 2048).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda x: x):
            out = inputs @ matrix.T if isinstance(matrix, Tensor) else quantized_linear(inputs, matrix)
            out.sum().backward()
        return sum(kept)

    assert saved_bytes(values_of(weight)) == 64 * 2048 * 4
    assert saved_bytes(weight) == 0
