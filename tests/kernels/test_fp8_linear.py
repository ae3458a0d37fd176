"""8-bit floating point: what is stored, and its products with either kind of inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tessera.kernels.fp8_linear import FP8, Fp8Weight, dequantize_fp8, fp8_linear, fp8_products, quantize_fp8
from tessera.linears.quantized import QuantizedLinear, place


def random_weight(rows: int, columns: int) -> tuple[torch.Tensor, Fp8Weight]:
    """A matrix whose rows differ in size by orders of magnitude, one of them zero, and itself in 8 bits."""
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 2, rows)[:, None]
    matrix[0] = 0
    return matrix, Fp8Weight(*quantize_fp8(matrix))


def test_every_row_keeps_its_precision() -> None:
    matrix, weight = random_weight(48, 96)
    assert weight.values.dtype == FP8
    found = dequantize_fp8(weight)
    assert torch.equal(found[0], matrix[0])
    # 3 bits of mantissa: half a step is a sixteenth of a number; what is far below its row's largest is subnormal.
    largest = matrix.abs().amax(1, keepdim=True)
    assert ((found - matrix).abs() <= matrix.abs() / 16 + largest / 448 * 2**-10).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 1030])
def test_a_linear_multiplies_with_what_is_stored(dtype: torch.dtype, rows: int) -> None:
    _, weight = random_weight(rows, 64)
    weight = Fp8Weight(weight.values, weight.scales.clamp(max=0.01))
    model = nn.Sequential(nn.Linear(64, rows)).to(dtype)
    place(model, "0", weight)
    assert isinstance(model[0], QuantizedLinear)
    inputs = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = nn.functional.linear(inputs.float(), dequantize_fp8(weight), model[0].bias.float())
    # Weight, product and sum are each rounded to the dtype once; an output is a sum of 64 terms.
    bound = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
    torch.testing.assert_close(model(inputs).float(), expected, rtol=0, atol=bound)
    assert model.to(torch.device("cpu"))[0].quantized.nbytes == rows * (64 + 4)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs of 32 columns do not fit a weight of 64 columns"):
        fp8_linear(torch.zeros(1, 32), random_weight(16, 64)[1])


def test_products_of_two_8_bit_sides_agree() -> None:
    """torch has the GPU's product for CPUs too: inputs that 8 bits hold exactly lose only the output's rounding."""
    _, weight = random_weight(32, 64)
    inputs = torch.randint(-8, 9, (5, 64), generator=torch.Generator().manual_seed(2)).float()
    inputs[:, 0] = 448 / 32  # a scale that is a power of two
    torch.testing.assert_close(fp8_products(inputs, weight), fp8_linear(inputs, weight), rtol=2**-7, atol=1e-6)
