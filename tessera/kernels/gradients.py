"""Decides whether autograd records an operation, which its kernel must then leave to its plain-torch twin.

Kernels compute no gradients. Grad mode alone does not rule them out: a frozen model that is called outside
`torch.inference_mode` records nothing. Every kernel asks here, so that the rule is the same for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def records(*tensors: Tensor) -> bool:
    """Whether autograd records an operation on these tensors: grad mode is on, and one of them requires gradients."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
