"""A linear layer with a quantized weight, which replaces a plain one.

It computes with the quantized weight; at most a panel is dequantized into memory, even for gradients.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tessera.kernels.quantized_weight import QuantizedWeight, quantized_linear
from tessera.linears.replace import innermost, replace

PLAIN = "plain"


class QuantizedLinear(nn.Module):
    """Replaces `nn.Linear`: inputs (..., K) to outputs (..., N), with a bias (N) or None.

    The weight's tensors are buffers such as `layers.0.attention.wq.codes`, named as in our own files.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.quantized = weight
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @property
    def quantized(self) -> QuantizedWeight:
        return self._weight

    @quantized.setter
    def quantized(self, weight: QuantizedWeight) -> None:
        self._weight = weight
        self._buffers.clear()
        for name, tensor in weight.tensors.items():
            self.register_buffer(name, tensor)

    @property
    def in_features(self) -> int:
        return self.quantized.shape[1]

    @property
    def out_features(self) -> int:
        return self.quantized.shape[0]

    def product(self, inputs: Tensor) -> Tensor:
        """Return the product before the bias is added."""
        out: Tensor = quantized_linear(inputs.flatten(0, -2), self._weight).unflatten(0, inputs.shape[:-1])
        return out

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.product(inputs)
        return out if self.bias is None else out + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move the weight with the module, but keep its format's dtypes."""
        weight = self._weight
        self._buffers.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.quantized = weight.to(fn(torch.empty(0, device=weight.device)).device)
        return self

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        self.retie()

    def retie(self) -> None:
        """Compute with the current buffers: loading may have replaced them."""
        tensors: dict[str, Any] = dict(self.named_buffers(recurse=False))
        self.quantized = dataclasses.replace(self._weight, **tensors)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.quantized.scheme}"


def count_weights(model: nn.Module) -> Counter[str]:
    """Count a model's weights by quantization scheme; unquantized ones are PLAIN."""
    counts: Counter[str] = Counter({PLAIN: sum(parameter.numel() for parameter in model.parameters())})
    for module in map(innermost, model.modules()):
        if isinstance(module, QuantizedLinear):
            counts[module.quantized.scheme] += module.in_features * module.out_features
    return counts


def place(model: nn.Module, name: str, weight: QuantizedWeight) -> None:
    """Replace the weight of the model's linear `name` ("layers.0.attention.wq") by a quantized one; a bias stays."""
    bias = model.get_submodule(name).bias
    replace(model, name, QuantizedLinear(weight, bias if isinstance(bias, Tensor) else None))
