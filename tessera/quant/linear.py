"""A linear layer whose weight is quantized, and putting it where a plain one stood.

It computes with the weight as it is; nothing is dequantized into memory beyond a panel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tessera.kernels.quantized_weight import QuantizedWeight, quantized_linear


class QuantizedLinear(nn.Module):
    """In place of `nn.Linear`: inputs (..., K) to outputs (..., N), with a bias (N) or None."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.quantized = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def in_features(self) -> int:
        return self.quantized.shape[1]

    @property
    def out_features(self) -> int:
        return self.quantized.shape[0]

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = quantized_linear(inputs.flatten(0, -2), self.quantized).unflatten(0, inputs.shape[:-1])
        return out if self.bias is None else out + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move the weight with the module; its dtypes are the format's and stay."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.quantized = self.quantized.to(fn(torch.empty(0, device=self.quantized.device)).device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.quantized.scheme}"


def count_quantized(model: nn.Module) -> Counter[str]:
    """How many weights of the model are quantized, by their scheme."""
    counts: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            counts[module.quantized.scheme] += module.in_features * module.out_features
    return counts


def place(model: nn.Module, name: str, weight: QuantizedWeight) -> None:
    """Put a quantized weight where the model's linear `name` ("layers.0.attention.wq") stands; a bias stays."""
    owner_name, _, attribute = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    setattr(owner, attribute, QuantizedLinear(weight, getattr(owner, attribute).bias))
