"""Checks if autograd records an operation; its plain-torch twin must then replace the kernel.

Kernels compute no gradients; of what they may be left to, only torch's FlashAttention has a derivative
(`flash_attention`). Grad mode alone does not rule them out: a frozen model called outside
`torch.inference_mode` records nothing. Every kernel uses this check, so that all follow the same rule.
"""

from __future__ import annotations

import torch
from torch import Tensor


def records(*tensors: Tensor) -> bool:
    """Return True if autograd records operations on these tensors: grad mode is on and one requires gradients."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
