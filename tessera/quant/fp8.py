"""A linear layer whose weight is in 8-bit floating point; it computes with the weight as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tessera.kernels.fp8_linear import Fp8Weight, fp8_linear


class Fp8Linear(nn.Module):
    """In place of `nn.Linear`: inputs (..., K) to outputs (..., N), with a bias (N) or None."""

    def __init__(self, weight: Fp8Weight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.fp8 = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def in_features(self) -> int:
        return self.fp8.shape[1]

    @property
    def out_features(self) -> int:
        return self.fp8.shape[0]

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = fp8_linear(inputs.flatten(0, -2), self.fp8).unflatten(0, inputs.shape[:-1])
        return out if self.bias is None else out + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp8Linear:
        """Move the weight with the module; its dtypes are the format's and stay."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.fp8 = self.fp8.to(fn(torch.empty(0, device=self.fp8.device)).device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, float8_e4m3fn"
