"""Parts shared by decoder and vision layers: the root-mean-square norm and the gated feed-forward.

Sources: RMSNorm, arXiv 1910.07467; SwiGLU, arXiv 2002.05202. Both sides use SiLU, even if a
checkpoint's HF config says gelu for the vision encoder: the released weights were trained with SiLU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tessera.kernels.elementwise import rms_norm, silu_gate
from tessera.kernels.gradients import records
from tessera.model.linear import Linear

# Longer steps pass through the feed-forward this many tokens at a time. Its hidden values are four times as wide as
# all others: at 4096 patches each of the two is 32 MB, which the C library maps anew every time, and the kernel
# takes longer to clear those pages than all arithmetic between the products (14 ms each on a Zen 4 core).
FEED_FORWARD_TOKENS = 1024


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        return rms_norm(hidden_TD, self.weight, self.eps)


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.w1 = Linear(width, hidden_width, bias=False)
        self.w2 = Linear(hidden_width, width, bias=False)
        self.w3 = Linear(width, hidden_width, bias=False)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        whole = getattr(self.w1, "needs_all_rows", False)  # rows of several adapters
        if len(hidden_TD) <= FEED_FORWARD_TOKENS or whole or records(hidden_TD, *self.parameters()):
            return self._compute(hidden_TD)
        return torch.cat([self._compute(part_TD) for part_TD in hidden_TD.split(FEED_FORWARD_TOKENS)])

    def _compute(self, hidden_TD: Tensor) -> Tensor:
        out: Tensor = self.w2(silu_gate(self.w1(hidden_TD), self.w3(hidden_TD)))
        return out
