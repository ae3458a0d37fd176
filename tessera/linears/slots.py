"""A linear that computes several LoRA adapters at once: each lies in a slot, and each has its own rows of a step.

Rows of one adapter lie together, so an adapter is two small products for each of its stretches of rows. A step
whose routing is empty takes the wrapped linear's own path. The idea: S-LoRA, arXiv 2311.03285.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tessera.kernels.low_rank import Part, add_low_rank
from tessera.linears.replace import Wrapper, product

Stretch = tuple[int, int, int | None]  # a slot, its first row, and the row after its last; None: to the end


@dataclass
class Routing:
    """The stretches of the step that is being computed, shared by all linears of a model; rows in none are plain."""

    stretches: tuple[Stretch, ...] = ()
    changes: int = 0  # how often a slot was filled or cleared


class SlotLinear(Wrapper):
    """A plain, quantized or adapted linear plus, for the rows of each slot, `scale` * B(A inputs) in their dtype.

    `slots` holds A (R, K), B (N, R) and the scale of the adapters that change this linear. They are no parameters of
    the model: neither saved nor counted. Inside a linear that ranks share, A and B are cut as the linear is.
    """

    def __init__(self, base: nn.Module, routing: Routing) -> None:
        super().__init__(base)
        self.routing = routing
        self.slots: dict[int, tuple[Tensor, Tensor, float]] = {}

    @property
    def needs_all_rows(self) -> bool:
        """Return True while rows must keep their places: the step may not be computed in parts."""
        return any((first, last) != (0, None) for _, first, last in self.routing.stretches)

    @property
    def kind(self) -> str:
        """The wrapped linear's class, by which a model is known."""
        return type(self.base).__name__

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.routing.stretches:
            out: Tensor = self.base(inputs)
            return out
        return super().forward(inputs)

    def product(self, inputs: Tensor) -> Tensor:
        out = product(self.base, inputs)
        # The library's step (engine/native_step.py) does the same, in the same order.
        parts = [
            Part(*adapter, first, len(inputs) if last is None else last)
            for slot, first, last in self.routing.stretches
            if (adapter := self.slots.get(slot)) is not None
        ]
        if parts:
            add_low_rank(out, inputs, parts)
        return out
