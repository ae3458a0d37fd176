"""Gradients of attention in 16 bits on CPUs without arithmetic for them, computed in float32.

There PyTorch takes six times as long for them in 16 bits (BENCHMARKS.md). What is kept for them are the inputs alone,
in their 16 bits; attention is computed again, of a few heads at a time. The twin, which serves every other processor
and dtype, is PyTorch's own derivative of `torch.nn.functional.scaled_dot_product_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tessera.kernels.gradients import records
from tessera.kernels.wide_linear import is_wide


def prefers_float32_gradients(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> bool:
    """Return True if these have gradients that are computed in float32 here; with `causal`, of whole sequences."""
    given = (queries_TNK, keys_LMK, values_LMK)
    return (
        records(*given)
        and is_wide(queries_TNK)
        and all(x.device == queries_TNK.device and x.dtype == queries_TNK.dtype for x in given)
        and not (causal and len(queries_TNK) != len(keys_LMK))
        and not torch.is_autocast_enabled("cpu")
    )


def trained_attention(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, *, causal: bool) -> Tensor:
    """Compute attention (T, N, K) of what the rule above takes; N/M query heads share a key/value head."""
    attended: Tensor = _Attention.apply(queries_TNK, keys_LMK, values_LMK, causal)  # type: ignore[no-untyped-call]
    return attended


def _attention(queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, causal: bool) -> Tensor:
    queries, keys, values = (x.transpose(0, 1)[None] for x in (queries_TNK, keys_LMK, values_LMK))
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, enable_gqa=True)[0].transpose(0, 1)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_TNK: Tensor, keys_LMK: Tensor, values_LMK: Tensor, causal: bool) -> Tensor:
        ctx.save_for_backward(queries_TNK, keys_LMK, values_LMK)
        ctx.causal = causal
        return _attention(queries_TNK, keys_LMK, values_LMK, causal)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TNK: Tensor) -> tuple[Tensor | None, ...]:
        given = ctx.saved_tensors
        shared_heads = given[1].shape[1]
        group = given[0].shape[1] // shared_heads
        gradients = [torch.empty_like(x) for x in given]
        at_once = -(-torch.get_num_threads() // group)  # PyTorch gives each thread heads of its own
        for start in range(0, shared_heads, at_once):
            shared, own = slice(start, start + at_once), slice(start * group, (start + at_once) * group)
            parts = (own, shared, shared)
            wide = [x[:, part].float().requires_grad_() for x, part in zip(given, parts, strict=True)]
            with torch.enable_grad():
                attended = _attention(wide[0], wide[1], wide[2], ctx.causal)
            found = torch.autograd.grad(attended, wide, gradient_TNK[:, own].float())
            for whole, part, each in zip(gradients, parts, found, strict=True):
                whole[:, part] = each
        return *gradients, None
