"""A packed linear in a plain one's place."""

from __future__ import annotations

import torch
from torch import nn

from tessera.kernels.packed_weight import dequantize, pack
from tessera.quant.linear import PackedLinear, place


def test_it_computes_what_the_dequantized_linear_does() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (24, 64), dtype=torch.uint8, generator=generator)
    weight = pack(codes, torch.rand(24, 2, generator=generator).half() * 0.1, bits=4)
    model = nn.Sequential(nn.Linear(64, 24))
    place(model, "0", weight)
    packed = model[0]
    assert isinstance(packed, PackedLinear)
    inputs = torch.randn(2, 3, 64, generator=generator)
    expected = nn.functional.linear(inputs, dequantize(weight), packed.bias)
    # Kernels round inputs to 8 bits: at most 1/254 of a group's largest, about 0.6 % of the outputs in norm.
    assert (model(inputs) - expected).norm() < 1e-2 * expected.norm()
    assert model.to(torch.device("cpu"))[0].packed.nbytes == weight.nbytes
