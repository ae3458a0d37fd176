"""Decoding steps in one call of the kernel library, where it serves them; else by the model's own modules.

`reason_for_modules` and `reason_for_plan` are the one rule: what the library's step does not compute (an 8-bit cache,
ranks, watched prompts, long prompts, odd types and shapes) is the modules'. Both ways call the same kernels, also for
rows with adapters, so a token's result has the same bits whichever is taken, and a sequence may change between them at
any step. The head belongs to the call if all rows have their token chosen, and all as the likeliest
(`Sampler.penalties_for`). The weights are the modules' own, found once; they must stay where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tessera.engine.plans import PagedPlan
from tessera.kernels.decoder_step import Adapters, DecoderStep, LayerWeights, Weight, has_step, serves
from tessera.kernels.library import choice
from tessera.kernels.low_rank import fits_kernel
from tessera.kernels.paged_attention import has_kernel
from tessera.kernels.skinny_linear import MOST_TOKENS
from tessera.linears.quantized import QuantizedLinear
from tessera.linears.slots import Routing, SlotLinear
from tessera.model.attention import AttentionPlan
from tessera.model.decoder import DecoderBlock
from tessera.model.linear import Linear
from tessera.model.pixtral import Pixtral
from tessera.model.rope import decoder_rotations

# Threads with which the step was measured to be faster (BENCHMARKS.md); with more, the modules compute.
MOST_THREADS = 2


class NativeSteps:
    """A model's decoder and head, by the library's step or by its modules, step by step.

    `routing` says which rows of a step have adapters, if the model has slots for them.
    """

    def __init__(self, model: Pixtral, routing: Routing | None = None) -> None:
        self.model = model
        self._routing = routing
        self._reason: str | None = None
        self._changes = -1  # of the slots that the step has taken
        self._made: tuple[object, str] | None = None  # the first layer's cache and the kernels' path that it is for
        self._step: DecoderStep | None = None

    def __call__(
        self, hidden_TD: Tensor, plan: AttentionPlan, penalties_V: Tensor | None = None
    ) -> tuple[Tensor, list[int] | None]:
        """Return the final, normed hidden states (T, D) as `Pixtral.forward` does, and with penalties perhaps ids.

        The ids are each row's likeliest by `Pixtral.logits` plus penalties, where the library gives them in the same
        call and all rows have one.
        """
        if not isinstance(plan, PagedPlan) or self.reason_for(plan, hidden_TD):
            out_TD: Tensor = self.model(hidden_TD, plan)
            return out_TD, None
        assert self._step is not None  # by the rule, as the next
        assert plan.few is not None
        stretches = [] if self._routing is None else self._routing.stretches
        if not self._step.chooses or (stretches and isinstance(self.model.output, SlotLinear)):
            penalties_V = None
        rotations = decoder_rotations(plan.positions_T, self.model.config)
        given = [(slot, first, last) for slot, first, last in stretches if last is not None]
        out_TD, ids = self._step.run(hidden_TD, rotations, plan.slots_T, plan.few, penalties_V, stretches=given)
        return out_TD, ids if ids and min(ids) >= 0 else None

    def reason_for(self, plan: PagedPlan, hidden_TD: Tensor) -> str | None:
        """Return why this step is the modules'; None: the library's."""
        return reason_for_plan(plan, hidden_TD) or self._reason_for_cache(plan) or self._reason_for_adapters()

    def _reason_for_adapters(self) -> str | None:
        """Return why the rows with adapters are the modules'; the step takes the slots when they have changed."""
        routing = self._routing
        if routing is None or not routing.stretches:
            return None
        if any(last is None for _, _, last in routing.stretches):
            return "all rows are one adapter's"
        if self._changes != routing.changes:
            assert self._step is not None
            linears = [_linears(block) for block in _blocks(self.model)]
            if not all(_adapters_fit(each, routing) for layer in linears for each in layer.values()):
                return "an adapter is not in bfloat16, or lies otherwise than kernels read it"
            self._step.set_adapters([{name: _slots_of(each) for name, each in layer.items()} for layer in linears])
            self._changes = routing.changes
        return None

    def _reason_for_cache(self, plan: PagedPlan) -> str | None:
        made = (plan.cache[0], choice().path)
        if self._made is None or self._made[0] is not made[0] or self._made[1] != made[1]:
            self._reason, self._step = reason_for_modules(self.model, plan, self._routing), None
            self._changes = -1
            if self._reason is None:
                layers = [layer_weights(block, self._routing) for block in _blocks(self.model)]
                norm, head = self.model.norm, _weight_of(self.model.output, self._routing)
                heads = self.model.config.n_heads
                self._step = DecoderStep(layers, norm.weight, head, plan.cache, eps=norm.eps, heads=heads)
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


def reason_for_modules(model: Pixtral, plan: PagedPlan, routing: Routing | None = None) -> str | None:
    """Return why the modules compute all of this model's steps over this cache; None: the library may.

    Slots for adapters hinder nothing if they are `routing`'s: a step says which of its rows they change.
    """
    if any(not has_kernel(layer) or layer.keys_BSMK.dtype != torch.bfloat16 for layer in plan.cache):
        return "the cache is not in bfloat16, or of an odd shape"
    if len(plan.cache) != len(model.layers) or not has_step(plan.cache[0]):
        return "the kernel library has no step"
    for block in _blocks(model):
        norms = (block.attention_norm, block.ffn_norm, model.norm)
        if any(norm.weight.dtype != torch.bfloat16 or norm.eps != model.norm.eps for norm in norms):
            return "a norm is not in bfloat16"
        for name, module in _linears(block).items():
            if _weight_of(module, routing) is None:
                return f"{name} is a {type(module).__name__} that the library's step does not serve"
    return None


def layer_weights(block: DecoderBlock, routing: Routing | None = None) -> LayerWeights:
    """Return the layer's tensors; `reason_for_modules` found nothing."""
    weights: dict[str, Weight] = {}
    for name, module in _linears(block).items():
        weight = _weight_of(module, routing)
        assert weight is not None
        weights[name] = weight
    return LayerWeights(block.attention_norm.weight, block.ffn_norm.weight, **weights)


def _slots_of(module: nn.Module) -> Adapters:
    return dict(module.slots) if isinstance(module, SlotLinear) else {}


def _adapters_fit(module: nn.Module, routing: Routing) -> bool:
    """Return True if the step may compute the adapters beside a linear, whose weight it serves."""
    weight = _weight_of(module, routing)
    assert weight is not None
    rows, columns = weight.shape
    return all(fits_kernel(a_RK, b_NR, rows, columns) for a_RK, b_NR, _ in _slots_of(module).values())


def _blocks(model: Pixtral) -> list[DecoderBlock]:
    return [block for block in model.layers if isinstance(block, DecoderBlock)]


def _linears(block: DecoderBlock) -> dict[str, nn.Module]:
    attention, forward = block.attention, block.feed_forward
    named = {name: getattr(attention, name) for name in ("wq", "wk", "wv", "wo")}
    return named | {name: getattr(forward, name) for name in ("w1", "w2", "w3")}


def _weight_of(module: nn.Module, routing: Routing | None) -> Weight | None:
    """Return a linear's weight; None for one that the step does not serve, such as one that ranks share."""
    weight: Weight | None = None
    if type(module) is SlotLinear and module.routing is routing:
        module = module.base
    if type(module) is Linear and module.bias is None:
        weight = module.weight.detach()
    if type(module) is QuantizedLinear and module.bias is None:
        weight = module.quantized if serves(module.quantized) else None  # type: ignore[assignment]
    return weight if serves(weight) else None
