"""Decoding steps in one call of the kernel library, where it serves them; else by the model's own modules.

`reason_for_modules` and `reason_for_plan` are the one rule: what the library's step does not compute (LoRA, an 8-bit
cache, ranks, watched prompts, long prompts, odd types and shapes) is the modules'. Both ways call the same kernels, so
a token's result has the same bits whichever is taken, and a sequence may change between them at any step. The weights
are the modules' own, found once; they must stay where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tessera.engine.plans import PagedPlan
from tessera.kernels.decoder_step import DecoderStep, LayerWeights, Weight, has_step, serves
from tessera.kernels.library import choice
from tessera.kernels.paged_attention import has_kernel
from tessera.kernels.skinny_linear import MOST_TOKENS
from tessera.linears.quantized import QuantizedLinear
from tessera.model.attention import AttentionPlan
from tessera.model.decoder import DecoderBlock
from tessera.model.linear import Linear
from tessera.model.pixtral import Pixtral
from tessera.model.rope import decoder_rotations

# Threads with which the step was measured to be faster (BENCHMARKS.md); with more, the modules compute.
MOST_THREADS = 2


class NativeSteps:
    """A model's decoder, by the library's step or by its modules, step by step."""

    def __init__(self, model: Pixtral) -> None:
        self.model = model
        self._reason: str | None = None
        self._made: tuple[object, str] | None = None  # the first layer's cache and the kernels' path that it is for
        self._step: DecoderStep | None = None

    def __call__(self, hidden_TD: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the final, normed hidden states (T, D) as `Pixtral.forward` does."""
        if not isinstance(plan, PagedPlan) or reason_for_plan(plan, hidden_TD) or self.reason_for(plan):
            out_TD: Tensor = self.model(hidden_TD, plan)
            return out_TD
        assert self._step is not None  # by the rule, as the next
        assert plan.few is not None
        queries, keys = decoder_rotations(plan.positions_T, self.model.config)
        return self._step.run(hidden_TD, queries, keys, plan.slots_T, plan.few)

    def reason_for(self, plan: PagedPlan) -> str | None:
        """Return why this model's steps over the plan's cache are its modules'; None: the library's."""
        made = (plan.cache[0], choice().path)
        if self._made is None or self._made[0] is not made[0] or self._made[1] != made[1]:
            self._reason, self._step = reason_for_modules(self.model, plan), None
            if self._reason is None:
                layers = [layer_weights(block) for block in _blocks(self.model)]
                norm = self.model.norm
                heads = self.model.config.n_heads
                self._step = DecoderStep(layers, norm.weight, norm.eps, heads, plan.cache)
            self._made = made
        return self._reason


def reason_for_plan(plan: AttentionPlan, hidden_TD: Tensor) -> str | None:
    """Return why this step is the modules', whatever the model; None: it may be the library's."""
    if type(plan) is not PagedPlan:
        return "its attention is not that of a paged cache alone"
    if torch.get_num_threads() > MOST_THREADS:
        return f"its speed with more than {MOST_THREADS} threads is not yet measured"
    if torch.is_grad_enabled():
        return "gradients may be asked for"
    if plan.few is None or plan.chunks or len(plan.few.rows_R) != len(hidden_TD):
        return "some of its sequences have many new tokens"
    if not (0 < len(hidden_TD) <= MOST_TOKENS and hidden_TD.dtype == torch.bfloat16):
        return f"it has more than {MOST_TOKENS} rows, or is not in bfloat16"
    return None


def reason_for_modules(model: Pixtral, plan: PagedPlan) -> str | None:
    """Return why the modules compute all of this model's steps over this cache; None: the library may."""
    if any(not has_kernel(layer) or layer.keys_BSMK.dtype != torch.bfloat16 for layer in plan.cache):
        return "the cache is not in bfloat16, or of an odd shape"
    if len(plan.cache) != len(model.layers) or not has_step(plan.cache[0]):
        return "the kernel library has no step"
    for block in _blocks(model):
        norms = (block.attention_norm, block.ffn_norm, model.norm)
        if any(norm.weight.dtype != torch.bfloat16 or norm.eps != model.norm.eps for norm in norms):
            return "a norm is not in bfloat16"
        for name, module in _linears(block).items():
            if _weight_of(module) is None:
                return f"{name} is a {type(module).__name__} that the library's step does not serve"
    return None


def layer_weights(block: DecoderBlock) -> LayerWeights:
    """Return the layer's tensors; `reason_for_modules` found nothing."""
    weights: dict[str, Weight] = {}
    for name, module in _linears(block).items():
        weight = _weight_of(module)
        assert weight is not None
        weights[name] = weight
    return LayerWeights(block.attention_norm.weight, block.ffn_norm.weight, **weights)


def _blocks(model: Pixtral) -> list[DecoderBlock]:
    return [block for block in model.layers if isinstance(block, DecoderBlock)]


def _linears(block: DecoderBlock) -> dict[str, nn.Module]:
    attention, forward = block.attention, block.feed_forward
    named = {name: getattr(attention, name) for name in ("wq", "wk", "wv", "wo")}
    return named | {name: getattr(forward, name) for name in ("w1", "w2", "w3")}


def _weight_of(module: nn.Module) -> Weight | None:
    """Return a linear's weight; None for one that the step does not serve, such as a wrapped linear."""
    weight: Weight | None = None
    if type(module) is Linear and module.bias is None:
        weight = module.weight.detach()
    if type(module) is QuantizedLinear and module.bias is None:
        weight = module.quantized if serves(module.quantized) else None  # type: ignore[assignment]
    return weight if serves(weight) else None
