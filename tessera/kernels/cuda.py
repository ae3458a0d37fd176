"""Decides if Triton kernels serve a tensor: on a CUDA device that they compile for, and outside autograd.

Also keeps the device's libraries from dropping any precision. Triton comes with torch's own CUDA
packages for Linux. If it is missing, or the device is older than Ampere, the plain-torch twins
compute on the device, slower. The environment variable TESSERA_KERNELS=torch selects the twins,
as on a CPU.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.kernels.library import VARIABLE

FIRST_CAPABILITY = (8, 0)  # the first with bfloat16 and asynchronous copies


def serves(first: Tensor, *others: Tensor) -> bool:
    """Return True if a Triton kernel may compute with these tensors of one device; kernels have no gradients."""
    return first.is_cuda and not records(first, *others) and why_not(first.device) is None


def keep_precision() -> None:
    """Make the device's libraries keep full precision: float32 without TF32, 16-bit sums in float32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


@cache
def why_not(device: torch.device) -> str | None:
    """Return a short reason that the twins compute on this CUDA device; None if the kernels do."""
    if os.environ.get(VARIABLE) == "torch":
        return f"{VARIABLE} is torch"
    if find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST_CAPABILITY:
        return (
            f"compute capability {capability[0]}.{capability[1]} is below {FIRST_CAPABILITY[0]}.{FIRST_CAPABILITY[1]}"
        )
    return None
