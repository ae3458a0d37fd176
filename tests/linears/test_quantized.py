"""A packed linear in a plain one's place."""

from __future__ import annotations

import torch
from torch import nn

from tessera.kernels.packed_weight import dequantize, pack
from tessera.linears.quantized import QuantizedLinear, place


def test_it_computes_what_the_dequantized_linear_does() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (24, 64), dtype=torch.uint8, generator=generator)
    weight = pack(codes, torch.rand(24, 2, generator=generator).half() * 0.1, bits=4)
    model = nn.Sequential(nn.Linear(64, 24))
    place(model, "0", weight)
    packed = model[0]
    assert isinstance(packed, QuantizedLinear)
    inputs = torch.randn(2, 3, 64, generator=generator)
    expected = nn.functional.linear(inputs, dequantize(weight), packed.bias)
    # A kernel may round the inputs to 8 bits: half a step of the largest for each, and a little for the sums.
    bound = inputs.abs().amax(-1, keepdim=True) / 254 * dequantize(weight).abs().sum(1) + 1e-5
    assert ((model(inputs) - expected).abs() <= bound).all()
    assert model.to(torch.device("cpu"))[0].quantized.nbytes == weight.nbytes
