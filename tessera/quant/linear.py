"""A linear layer whose weight is packed, and putting a quantized one where a plain one stood.

It computes with the weight as it is; nothing is dequantized into memory beyond a panel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tessera.kernels.fp8_linear import Fp8Weight
from tessera.kernels.packed_linear import packed_linear
from tessera.kernels.packed_weight import PackedWeight
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.quant.fp8 import Fp8Linear


class PackedLinear(nn.Module):
    """In place of `nn.Linear`: inputs (..., K) to outputs (..., N), with a bias (N) or None."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def in_features(self) -> int:
        return self.packed.shape[1]

    @property
    def out_features(self) -> int:
        return self.packed.shape[0]

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = packed_linear(inputs.flatten(0, -2), self.packed).unflatten(0, inputs.shape[:-1])
        return out if self.bias is None else out + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Move the packed tensors with the module; their dtypes are the layout's and stay."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.packed = self.packed.to(fn(torch.empty(0, device=self.packed.device)).device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.packed.bits}"


def count_quantized(model: nn.Module) -> Counter[str]:
    """How many weights of the model are quantized, by their scheme."""
    counts: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, PackedLinear):
            counts[module.packed.scheme] += module.in_features * module.out_features
        elif isinstance(module, Fp8Linear):
            counts["fp8"] += module.in_features * module.out_features
    return counts


def place(model: nn.Module, name: str, weight: QuantizedWeight) -> None:
    """Put a quantized weight where the model's linear `name` ("layers.0.attention.wq") stands; a bias stays."""
    owner_name, _, attribute = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    plain = getattr(owner, attribute)
    linear = Fp8Linear(weight, plain.bias) if isinstance(weight, Fp8Weight) else PackedLinear(weight, plain.bias)
    setattr(owner, attribute, linear)
