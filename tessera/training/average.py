"""Averages the weights over a run's last steps, which is better than any single step's.

Exponential, in float32, over the optimizer's master weights; see arXiv 2311.16464 for when it helps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """Follows master weights; `decay` 0.99 averages about the last hundred updates."""

    def __init__(self, masters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: master.clone() for name, master in masters.items()}

    @torch.no_grad()
    def update(self, masters: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.lerp_(masters[name], 1 - self.decay)

    def state_tensors(self) -> dict[str, Tensor]:
        return {f"average.{name}": tensor for name, tensor in self.tensors.items()}

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state[f"average.{name}"])
