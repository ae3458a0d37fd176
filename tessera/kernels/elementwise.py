"""Elementwise arithmetic between matrix products: norm, gate and rotation, in one pass over memory each.

In plain torch they pass over memory five to eight times and round to bfloat16 on the way; the
kernels do it once, in float32 internally, for the decoder and the vision encoder alike. They serve
float32 and bfloat16 on CPUs, and in Triton on GPUs, outside autograd; the twins serve everything
else. The rotation's result is bit-identical to the twin's; norm and gate differ in the order of a
sum and round once less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import cuda
from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, REAL, WHOLE, kernel

SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# Numbers for each thread: fewer are done before another thread has woken.
NUMBERS_PER_THREAD = 2**15


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight along the last dimension; a new tensor of the same dtype."""
    name = _name("rms_norm", x_TD, weight_D) if weight_D.shape == x_TD.shape[-1:] else None
    function = name and kernel(name, ADDRESS, WHOLE, ADDRESS, ADDRESS, WHOLE, WHOLE, REAL, WHOLE)
    if not function:
        return rms_norm_twin(x_TD, weight_D, eps)
    width = x_TD.shape[-1]
    rows = x_TD.reshape(-1, width)
    out = torch.empty_like(x_TD, memory_format=torch.contiguous_format)
    function(
        rows.data_ptr(), rows.stride(0), weight_D.data_ptr(), out.data_ptr(), len(rows), width, eps, _threads(x_TD)
    )
    return out


def rms_norm_twin(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x_TD, weight_D.shape, weight_D, eps)


def silu_gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up; the result may take the gate's memory, which must not be read afterwards."""
    if gate_TF.shape != up_TF.shape or not gate_TF.is_contiguous():
        return silu_gate_twin(gate_TF, up_TF)
    if cuda.serves(gate_TF, up_TF) and up_TF.is_contiguous():
        from tessera.kernels import triton_elementwise

        return triton_elementwise.silu_gate(gate_TF, up_TF)
    name = _name("silu_gate", gate_TF, up_TF)
    function = name and kernel(name, ADDRESS, WHOLE, ADDRESS, WHOLE, WHOLE, WHOLE, WHOLE)
    if not function:
        return silu_gate_twin(gate_TF, up_TF)
    width = gate_TF.shape[-1]
    gates, ups = gate_TF.view(-1, width), up_TF.reshape(-1, width)
    function(gates.data_ptr(), gates.stride(0), ups.data_ptr(), ups.stride(0), len(gates), width, _threads(gate_TF))
    return gate_TF


def silu_gate_twin(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    return F.silu(gate_TF) * up_TF


def rotate(x_TNK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i+1) of each head by the token's angles; the result may take x's memory.

    x may be a view into something wider, such as the queries' part of a joint projection; cosines and
    sines are float32 and hold K/2 values for each token.
    """
    (tokens, heads, width), (token_stride, head_stride, step) = x_TNK.shape, x_TNK.stride()
    whole = cos_TK.shape == sin_TK.shape and (len(cos_TK), 2 * cos_TK.shape[1]) == (tokens, width)
    if not whole or not cos_TK.dtype == sin_TK.dtype == torch.float32:
        return rotate_twin(x_TNK, cos_TK, sin_TK)
    if cuda.serves(x_TNK) and step == 1:
        from tessera.kernels import triton_elementwise

        return triton_elementwise.rotate(x_TNK, cos_TK.contiguous(), sin_TK.contiguous())
    name = _name("rotate", x_TNK)
    function = name and kernel(name, ADDRESS, WHOLE, WHOLE, ADDRESS, ADDRESS, WHOLE, WHOLE, WHOLE, WHOLE)
    if not function:
        return rotate_twin(x_TNK, cos_TK, sin_TK)
    cos_TK, sin_TK = cos_TK.contiguous(), sin_TK.contiguous()
    function(
        x_TNK.data_ptr(), token_stride, head_stride, cos_TK.data_ptr(), sin_TK.data_ptr(),
        tokens, heads, width // 2, _threads(x_TNK),
    )  # fmt: skip
    return x_TNK


def rotate_twin(x_TNK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    cos, sin = cos_TK[:, None], sin_TK[:, None]
    even, odd = x_TNK[..., 0::2].float(), x_TNK[..., 1::2].float()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x_TNK.dtype)


def _name(operation: str, *tensors: Tensor) -> str | None:
    """Return the kernel's name if one can serve these tensors; None if autograd, dtype or device need the twin."""
    first = tensors[0]
    suffix = SUFFIXES.get(first.dtype)
    if records(*tensors):
        return None
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype != first.dtype or tensor.stride(-1) != 1:
            return None
    return f"{operation}_{suffix}" if suffix and first.numel() else None


def _threads(tensor: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), tensor.numel() // NUMBERS_PER_THREAD))
