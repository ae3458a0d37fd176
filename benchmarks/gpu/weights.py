"""Low-bit weights in place of a model's own, made on the device."""

from __future__ import annotations

import torch

from tessera.bench.peer import random_packed
from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.linears.quantized import place
from tessera.model.pixtral import Pixtral
from tessera.weights.fill import linear_shapes


def quantize_layers(model: Pixtral, scheme: str) -> None:
    """Give the layers' linears their own weights in "fp8", or random codes in "int4" or "int8"."""
    for name, shape in linear_shapes(model.config).items():
        if not name.startswith("layers."):
            continue  # head and images stay as they are
        if scheme == "fp8":
            place(model, name, Fp8Weight(*quantize_fp8(model.get_parameter(f"{name}.weight"))))
        else:
            place(model, name, random_packed(*shape, {"int4": 4, "int8": 8}[scheme], model.device))


def random_fp8(rows: int, columns: int, device: torch.device) -> Fp8Weight:
    return Fp8Weight(*quantize_fp8(torch.randn(rows, columns, device=device)))
