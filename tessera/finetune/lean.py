"""A decoder layer over frozen weights: what its gradient needs, and nothing that is cheaply computed again.

Autograd keeps every operation's inputs. Here the norms' results and the gated product are computed again from what
is kept anyway, keys and values are not repeated for each query head, the adapters of linears with the same inputs
are one product, and elementwise steps take the kernels. A layer keeps about 2.8 times fewer numbers, and
multiplies by the frozen matrices as often as before: forward, and for the inputs' gradient where one is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tessera.kernels.attention_gradients import prefers_float32_gradients
from tessera.kernels.elementwise import rms_norm, rotate, silu_gate
from tessera.kernels.flash_attention import Segments, prefers_flash
from tessera.kernels.quantized_weight import gradient_to_inputs, training_product
from tessera.kernels.wide_linear import add_product, linear, product
from tessera.linears.lora import LoraLinear
from tessera.linears.quantized import QuantizedLinear
from tessera.model.attention import AttentionPlan, DensePlan, attend_segments
from tessera.model.block import RMSNorm
from tessera.model.decoder import DecoderBlock
from tessera.model.pixtral import Pixtral
from tessera.model.rope import Rotation, Rotations

NORM_ROWS = 512  # of which a norm's gradient is computed at once in float32


def lean_blocks(model: Pixtral) -> None:
    """Let the decoder layers whose own weights are frozen keep less; call it after adapters were attached."""
    for block in model.layers:
        if isinstance(block, DecoderBlock) and not any(
            each.requires_grad for name, each in block.named_parameters() if ".lora_" not in name
        ):
            # Answers and held-out losses are computed as before.
            block.forward = partial(_forward, block, block.forward)  # type: ignore[method-assign]


def is_lean(block: nn.Module) -> bool:
    """Return True if a layer's numbers are the same whether its inputs have a gradient or not."""
    return getattr(_innermost(block.forward), "func", None) is _forward


def _innermost(function: Any) -> Any:
    """Return what `checkpoint_blocks` may have wrapped."""
    while isinstance(function, partial) and function.func is not _forward:
        function = function.args[0]
    return function


def _forward(block: DecoderBlock, plain: Any, hidden_TD: Tensor, plan: AttentionPlan, rotations: Rotations) -> Tensor:
    if not torch.is_grad_enabled() or not isinstance(plan, DensePlan):
        out: Tensor = plain(hidden_TD, plan, rotations)
        return out
    attention, feed_forward = block.attention, block.feed_forward
    projected = _normed(hidden_TD, block.attention_norm, (attention.wq, attention.wk, attention.wv))
    queries, keys, values = (each.unflatten(-1, (-1, attention.head_dim)) for each in projected)
    attended_TNK = _attend(
        plan.segments, _rotated(queries, rotations.queries), _rotated(keys, rotations.keys), values
    )  # fmt: skip
    hidden_TD = _added(hidden_TD, attended_TNK.flatten(-2), attention.wo)
    gate_TF, up_TF = _normed(hidden_TD, block.ffn_norm, (feed_forward.w1, feed_forward.w3))
    return _gated(hidden_TD, gate_TF, up_TF, feed_forward.w2)


def _attend(segments: Segments, queries_TNK: Tensor, keys_TMK: Tensor, values_TMK: Tensor) -> Tensor:
    """Compute causal attention of each segment by itself, keys and values as they are."""
    given = queries_TNK, keys_TMK, values_TMK
    if prefers_flash(*given) or prefers_float32_gradients(*given, causal=True):
        return attend_segments(segments, *given, causal=True)
    attended = []
    for each in zip(*(x.split(segments.lengths) for x in given), strict=True):
        queries, keys, values = (x.transpose(0, 1)[None] for x in each)
        out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        attended.append(out[0].transpose(0, 1))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


class _Frozen:
    """A linear whose own weight is frozen, perhaps with an adapter beside it."""

    def __init__(self, linear: nn.Module) -> None:
        self.scale = linear.scale if isinstance(linear, LoraLinear) else 0.0
        self.base = linear.base if isinstance(linear, LoraLinear) else linear
        self.matrices = (linear.lora_A.weight, linear.lora_B.weight) if isinstance(linear, LoraLinear) else ()

    def product(self, inputs: Tensor) -> Tensor:
        if isinstance(self.base, QuantizedLinear):
            return training_product(inputs, self.base.quantized)
        return linear(inputs, self.base.get_parameter("weight"))

    def backward(self, gradient: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return the inputs' gradient, added to `beside`, which it may overwrite."""
        if isinstance(self.base, QuantizedLinear):
            found = gradient_to_inputs(gradient, self.base.quantized)
            return found if beside is None else beside.add_(found)
        weight = self.base.get_parameter("weight")
        return product(gradient, weight) if beside is None else add_product(beside, gradient, weight)


class _Linears:
    """Frozen linears with the same inputs, and their adapters as one."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        self.frozen = [_Frozen(linear) for linear in linears]
        self.matrices = [matrix for each in self.frozen for matrix in each.matrices]

    def products(self, inputs: Tensor, matrices: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """Return each linear's product, and the inputs times all A."""
        outs = [each.product(inputs) for each in self.frozen]
        if not matrices:
            return outs, None
        low = linear(inputs, torch.cat(list(matrices[0::2])))
        for out, (frozen, b_NR, columns) in zip(self._adapted(outs), self._parts(matrices), strict=True):
            add_product(out, low[:, columns], b_NR.t(), frozen.scale)
        return outs, low

    def backward(
        self, gradients: Sequence[Tensor], inputs: Tensor, low: Tensor | None, matrices: Sequence[Tensor], needed: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Return the gradient of the inputs, if `needed`, and those of the matrices, in their order."""
        into: Tensor | None = None
        if needed:
            for frozen, gradient in zip(self.frozen, gradients, strict=True):
                into = frozen.backward(gradient, into)
        if low is None:
            return into, []
        parts = list(zip(self._adapted(gradients), self._parts(matrices), strict=True))
        low_gradient = torch.empty_like(low)
        b_gradients = []
        for gradient, (frozen, b_NR, columns) in parts:
            torch.mul(product(gradient, b_NR), frozen.scale, out=low_gradient[:, columns])
            b_gradients.append(product(low[:, columns].t(), gradient).mul_(frozen.scale).t())
        sizes = [columns.stop - columns.start for _, (_, _, columns) in parts]
        a_gradients = product(low_gradient.t(), inputs).split(sizes)
        if into is not None:
            add_product(into, low_gradient, torch.cat(list(matrices[0::2])))
        return into, [each for pair in zip(a_gradients, b_gradients, strict=True) for each in pair]

    def _adapted(self, values: Sequence[Tensor]) -> list[Tensor]:
        return [value for value, frozen in zip(values, self.frozen, strict=True) if frozen.matrices]

    def _parts(self, matrices: Sequence[Tensor]) -> list[tuple[_Frozen, Tensor, slice]]:
        """Return each adapted linear with its B and its columns of the product with all A."""
        adapted, found, start = [each for each in self.frozen if each.matrices], [], 0
        for frozen, a_RK, b_NR in zip(adapted, matrices[0::2], matrices[1::2], strict=True):
            found.append((frozen, b_NR, slice(start, start + len(a_RK))))
            start += len(a_RK)
        return found


def _normed(x_TD: Tensor, norm: RMSNorm, linears: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    group = _Linears(linears)
    outs: tuple[Tensor, ...] = _Normed.apply(x_TD, norm, group, *group.matrices)  # type: ignore[no-untyped-call]
    return outs


def _added(residual_TD: Tensor, inputs: Tensor, linear: nn.Module) -> Tensor:
    group = _Linears([linear])
    out: Tensor = _Added.apply(residual_TD, inputs, group, *group.matrices)  # type: ignore[no-untyped-call]
    return out


def _gated(residual_TD: Tensor, gate_TF: Tensor, up_TF: Tensor, linear: nn.Module) -> Tensor:
    group = _Linears([linear])
    out: Tensor = _Gated.apply(residual_TD, gate_TF, up_TF, group, *group.matrices)  # type: ignore[no-untyped-call]
    return out


def _rotated(x_TNK: Tensor, rotation: Rotation) -> Tensor:
    out: Tensor = _Rotated.apply(x_TNK, rotation)  # type: ignore[no-untyped-call]
    return out


class _Normed(torch.autograd.Function):
    """Linears of normed inputs; keeps the inputs before the norm."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, norm: RMSNorm, linears: _Linears, *matrices: Tensor) -> tuple[Tensor, ...]:
        outs, low = linears.products(rms_norm(x_TD, norm.weight.detach(), norm.eps), matrices)
        ctx.norm, ctx.linears = norm, linears
        ctx.save_for_backward(x_TD, low, *matrices)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, low, *matrices = ctx.saved_tensors
        weight_D, needed = ctx.norm.weight.detach(), ctx.needs_input_grad[0]
        normed_TD = rms_norm(x_TD, weight_D, ctx.norm.eps)
        into, rest = ctx.linears.backward(gradients, normed_TD, low, matrices, needed)
        return (None if into is None else _through_norm(into, x_TD, weight_D, ctx.norm.eps), None, None, *rest)


class _Rotated(torch.autograd.Function):
    """Rotates queries or keys in their place; keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x_TNK: Tensor, rotation: Rotation) -> Tensor:
        ctx.rotation = rotation
        out = rotate(x_TNK.detach(), *rotation)
        if out.data_ptr() == x_TNK.data_ptr():
            ctx.mark_dirty(x_TNK)
            return x_TNK
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TNK: Tensor) -> tuple[Tensor, None]:
        cos, sin = ctx.rotation
        return rotate(gradient_TNK.clone(memory_format=torch.contiguous_format), cos, -sin), None


class _Added(torch.autograd.Function):
    """A residual plus a linear's product."""

    @staticmethod
    def forward(ctx: Any, residual_TD: Tensor, inputs: Tensor, linears: _Linears, *matrices: Tensor) -> Tensor:
        (out,), low = linears.products(inputs, matrices)
        ctx.linears = linears
        ctx.save_for_backward(inputs if matrices else None, low, *matrices)
        return out.add_(residual_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[Tensor | None, ...]:
        inputs, low, *matrices = ctx.saved_tensors
        into, rest = ctx.linears.backward([gradient_TD], inputs, low, matrices, ctx.needs_input_grad[1])
        return gradient_TD, into, None, *rest


class _Gated(torch.autograd.Function):
    """A residual plus a linear's product with silu(gate) * up, which is computed again."""

    @staticmethod
    def forward(
        ctx: Any, residual_TD: Tensor, gate_TF: Tensor, up_TF: Tensor, linears: _Linears, *matrices: Tensor
    ) -> Tensor:
        (out,), low = linears.products(silu_gate(gate_TF.clone(), up_TF), matrices)
        ctx.linears = linears
        ctx.save_for_backward(gate_TF, up_TF, low, *matrices)
        return out.add_(residual_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[Tensor | None, ...]:
        gate_TF, up_TF, low, *matrices = ctx.saved_tensors
        inputs = silu_gate(gate_TF.clone(), up_TF) if matrices else None
        into, rest = ctx.linears.backward([gradient_TD], inputs, low, matrices, True)
        del inputs
        up_gradient = F.silu(gate_TF).mul_(into)
        gate_gradient = torch.ops.aten.silu_backward(into.mul_(up_TF), gate_TF)
        return gradient_TD, gate_gradient, up_gradient, None, *rest


def _through_norm(gradient_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return the gradient of x / rms(x) * weight for x, in place of the given one.

    With r = 1 / rms(x) and g the gradient times the weight: r g - x r^3 mean(g x).
    """
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    for gradient, x in zip(gradient_TD.split(NORM_ROWS), x_TD.split(NORM_ROWS), strict=True):
        wide, given = x.to(dtype), gradient.to(dtype) * weight_D
        inverse_T1 = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
        along_T1 = (given * wide).mean(-1, keepdim=True) * inverse_T1**3
        gradient.copy_(given.mul_(inverse_T1).sub_(wide.mul_(along_T1)))
    return gradient_TD
