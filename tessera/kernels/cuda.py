"""Whether the Triton kernels serve a tensor: on a CUDA device that they compile for, and outside autograd.

And what precision the device's libraries may drop, which is none. Triton comes with torch's own CUDA
packages for Linux. Where it is missing, or the device is older than Ampere, the plain-torch twins
compute on the device, slower. The environment variable TESSERA_KERNELS=torch asks for the twins,
here as on a CPU.
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
    """Whether a Triton kernel may compute with these tensors, which lie on one device; kernels know no gradients."""
    return first.is_cuda and not records(first, *others) and why_not(first.device) is None


def keep_precision() -> None:
    """Make the device's libraries compute as the dtype says: float32 without TF32, sums of 16 bits in float32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


@cache
def why_not(device: torch.device) -> str | None:
    """Why the twins compute on this CUDA device, in a few words; None where the kernels do."""
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
