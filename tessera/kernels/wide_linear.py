"""Products in 16 bits on CPUs without arithmetic for them: computed in float32, and rounded once, at the end.

There PyTorch multiplies bfloat16 and float16 number by number: at 5 to 10 GFLOP/s on a Zen 3 core. The kernel
(native/wide_product_avx2.cpp) unpacks both sides as it goes. Beside its output it needs MOST_ROWS of the inputs in
float32, 192 KiB for each thread, and 96 KiB of each thread's stack. Without it, PyTorch multiplies in float32, a panel
of the weight at a time. `torch.nn.functional.linear` serves every other device, processor and dtype, few tokens, and
what does not fit together: that raises PyTorch's own errors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.kernels.library import ADDRESS, WHOLE, kernel

FEWEST_TOKENS = 12  # with fewer, and no kernel, it takes longer to convert the weight than PyTorch to multiply by it
PANEL_NUMBERS = 2**21  # of the weight in float32 at a time, without the kernel: 8 MB
MOST_ROWS = 512  # of the inputs in float32 at a time, with it

# As in native/wide_product_avx2.cpp.
ROWS, WIDE, STEPS, PANELS = 4, 24, 256, 4
STORED = {torch.bfloat16: 0, torch.float16: 1}


class _Matrix(ctypes.Structure):
    """`Matrix` of native/wide_product_avx2.cpp; one of the strides is 1."""

    _fields_ = (("start", ADDRESS), ("row_stride", WHOLE), ("column_stride", WHOLE))


class _Call(ctypes.Structure):
    """`ProductCall` of native/wide_product_avx2.cpp."""

    _fields_ = (
        *[(name, _Matrix) for name in ("left", "right", "out")],
        *[(name, WHOLE) for name in ("rows", "columns", "depth", "most")],
        ("packed", ADDRESS),
        ("threads", WHOLE),
        ("stored", WHOLE),
    )


def linear(inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Multiply inputs (..., K) by the weight's transpose and add the bias: (..., N) in the inputs' dtype."""
    if not _serves(inputs, weight_NK, bias_N):
        return F.linear(inputs, weight_NK, bias_N)
    product = _recorded(inputs, weight_NK)
    return product if bias_N is None else product + bias_N


def product(left_TK: Tensor, right_KN: Tensor) -> Tensor:
    """Multiply two matrices: (T, N) in the left one's dtype."""
    return linear(left_TK, right_KN.T)


def add_product(into_TN: Tensor, left_TK: Tensor, right_KN: Tensor, scale: float = 1.0) -> Tensor:
    """Add `scale` times the product of two matrices to `into_TN` in place, and return it; records no gradient."""
    whole = into_TN.shape == (*left_TK.shape[:1], *right_KN.shape[1:])
    if whole and into_TN.dtype == left_TK.dtype and _serves(left_TK, right_KN.T):
        return into_TN.add_(_product(left_TK, right_KN.T), alpha=scale)
    return into_TN.addmm_(left_TK, right_KN, alpha=scale)


def is_wide(inputs: Tensor) -> bool:
    """Return True if products of these inputs are computed in float32 here."""
    return lacks_products(inputs.device, inputs.dtype)


def lacks_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if this is a CPU, the dtype has 16 bits, and PyTorch has no fast products of it here."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not _multiplies(dtype)


def _serves(inputs: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> bool:
    """Return True if these fit together, are not too few, no autocast chooses the dtype, and `is_wide`."""
    given = (weight_NK,) if bias_N is None else (weight_NK, bias_N)
    return (
        is_wide(inputs)
        and all(each.dtype == inputs.dtype and each.device == inputs.device for each in given)
        and weight_NK.dim() == 2
        and inputs.shape[-1:] == weight_NK.shape[1:]
        and (bias_N is None or bias_N.shape == weight_NK.shape[:1])
        and inputs.numel() >= FEWEST_TOKENS * weight_NK.shape[1] > 0 < weight_NK.shape[0]
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Return True if this processor has products of 16 bits that PyTorch uses."""
    if not torch.backends.mkldnn.is_available():  # then PyTorch was built without the checks as well
        return False
    supported = torch.ops.mkldnn
    check = supported._is_mkldnn_bf16_supported if dtype == torch.bfloat16 else supported._is_mkldnn_fp16_supported
    return bool(check())


def _kernel() -> Callable[..., int] | None:
    """Return the kernel; None where there is none, or where PyTorch multiplies float32 with wider instructions."""
    return kernel("wide_product", ADDRESS) if torch.backends.cpu.get_cpu_capability() == "AVX2" else None


def _recorded(inputs: Tensor, weight_NK: Tensor) -> Tensor:
    if not records(inputs, weight_NK):
        return _product(inputs, weight_NK)
    product: Tensor = _Product.apply(inputs, weight_NK)  # type: ignore[no-untyped-call]
    return product


def _product(inputs: Tensor, weight_NK: Tensor) -> Tensor:
    rows, columns = weight_NK.shape
    out = inputs.new_empty(*inputs.shape[:-1], rows)
    inputs_TK, out_TN = inputs.reshape(-1, columns), out.view(-1, rows)
    function = _kernel()
    if function is not None:
        _multiply(function, inputs_TK, weight_NK, out_TN)
        return out
    inputs_TK, panel_rows = inputs_TK.float(), max(1, PANEL_NUMBERS // columns)
    for start in range(0, rows, panel_rows):
        panel = weight_NK[start : start + panel_rows]
        out_TN[:, start : start + panel_rows] = inputs_TK @ panel.float().T
    return out


def _multiply(function: Callable[..., int], left_TK: Tensor, right_NK: Tensor, out_TN: Tensor) -> None:
    (rows, depth), columns = left_TK.shape, len(right_NK)
    left_TK, right_NK = (x if 1 in x.stride() else x.contiguous() for x in (left_TK, right_NK))
    blocks = -(-depth // STEPS)
    most = -(-min(MOST_ROWS, rows) // ROWS) * ROWS
    threads = min(torch.get_num_threads(), -(-columns // WIDE))
    packed = torch.empty(most * (blocks * STEPS + threads * PANELS * WIDE), dtype=torch.float32)
    matrices = [_Matrix(x.data_ptr(), *x.stride()) for x in (left_TK, right_NK, out_TN)]
    function(ctypes.byref(_Call(
        *matrices, rows, columns, depth, most, packed.data_ptr(), threads, STORED[out_TN.dtype]
    )))  # fmt: skip


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


class _Product(torch.autograd.Function):
    """The product with its gradients, and theirs; it saves inputs and weight in their 16 bits."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight_NK)
        return _product(inputs, weight_NK)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        inputs, weight_NK = ctx.saved_tensors
        for_inputs = for_weight = None
        if ctx.needs_input_grad[0]:
            for_inputs = _recorded(gradient, weight_NK.T)
        if ctx.needs_input_grad[1]:
            for_weight = _recorded(_rows(gradient).T, _rows(inputs).T)
        return for_inputs, for_weight
