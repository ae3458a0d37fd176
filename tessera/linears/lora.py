"""A linear with a LoRA adapter beside it, which can be trained while the linear stays frozen.

The adapter's two matrices are `lora_A.weight` (R, K) and `lora_B.weight` (N, R) under the linear's name, as in
Mistral's own adapter files. The product is never merged here, so a quantized linear keeps its codes.
Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

from torch import Tensor, nn

from tessera.linears.replace import Wrapper, product
from tessera.model.linear import Linear


class LoraLinear(Wrapper):
    """A plain, quantized or parallel linear plus `scale` * B(A inputs), in the inputs' dtype.

    Around a linear that other ranks share, A and B are whole; inside one (wrapped again by `parallelize`), they are
    cut as the linear is, and the sum over the ranks is of both.
    """

    def __init__(self, base: nn.Module, a_RK: Tensor, b_NR: Tensor, scale: float) -> None:
        super().__init__(base)
        self.scale = scale
        self.lora_A, self.lora_B = _matrix(a_RK), _matrix(b_NR)

    def product(self, inputs: Tensor) -> Tensor:
        added: Tensor = self.lora_B(self.lora_A(inputs)) * self.scale
        return product(self.base, inputs) + added

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.lora_A.out_features}, scale={self.scale:g}"


def _matrix(values: Tensor) -> Linear:
    rows, columns = values.shape
    linear = Linear(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(values, requires_grad=False)
    return linear
