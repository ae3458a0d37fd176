"""The decoder's and the encoder's linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from tessera.kernels.skinny_linear import linear


class Linear(nn.Linear):
    """`nn.Linear` that uses a kernel for products of few tokens."""

    def product(self, inputs: Tensor) -> Tensor:
        """Return the product before the bias is added."""
        return linear(inputs, self.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)
