"""Puts an adapter beside a model's linears, and takes it from there after training."""

from __future__ import annotations

from torch import Tensor

from tessera.errors import UsageError
from tessera.linears.lora import LoraLinear
from tessera.linears.replace import replace
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard


def attach(model: Pixtral, adapter: LoraAdapter, shard: Shard | None = None, *, trainable: bool = False) -> None:
    """Let the model compute with the adapter, in its own dtype and on its device; `adapter` itself stays as it is.

    `shard` is the part of the model in this process before `parallelize` makes the ranks one: the adapter's matrices
    are cut as their linears are. Raises UsageError if there is an adapter already.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise UsageError("the model computes with an adapter already; load the model again for another one.")
    for name, module in adapter.modules.items():
        adapted = LoraLinear(model.get_submodule(name), *matrices_beside(model, name, module, shard, copy=True))
        for matrix in (adapted.lora_A, adapted.lora_B):
            matrix.weight.requires_grad_(trainable)
        replace(model, name, adapted)


def matrices_beside(
    model: Pixtral, name: str, module: LowRank, shard: Shard | None, *, copy: bool = False
) -> tuple[Tensor, Tensor, float]:
    """Return A, B and the scale for the model's linear `name`, cut as it is, in the model's dtype and on its device."""
    a_RK, b_NR = module.a_RK, module.b_NR
    if shard is not None:
        rows = shard.rows(name, len(b_NR))
        columns = shard.columns(name, a_RK.shape[1])
        b_NR = b_NR if rows is None else b_NR[rows.start : rows.stop]
        a_RK = a_RK if columns is None else a_RK[:, columns.start : columns.stop]
    a_RK, b_NR = (each.to(model.device, model.dtype, copy=copy).contiguous() for each in (a_RK, b_NR))
    return a_RK, b_NR, module.scale


def attached(model: Pixtral, base: str | None = None) -> LoraAdapter:
    """Return a copy of the adapter that the model computes with, to be written; raises CheckpointError without one."""
    modules = {
        name: LowRank(
            module.lora_A.weight.detach().cpu().clone(), module.lora_B.weight.detach().cpu().clone(), module.scale
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
    return LoraAdapter.of(modules, model.config, "the model", base=base)
