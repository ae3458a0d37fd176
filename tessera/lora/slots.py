"""The slots of a model: adapters are put beside all linears at once, and a step says which rows are whose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from tessera.kernels.low_rank import laid_out
from tessera.linears.parallel import RowParallelLinear, VocabularyParallelHead
from tessera.linears.replace import replace
from tessera.linears.slots import Routing, SlotLinear, Stretch
from tessera.lora.adapter import LoraAdapter
from tessera.lora.attach import matrices_beside
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.weights.fill import linear_shapes


class Slots:
    """Adapters in numbered slots of a model, which is `shard` of the whole one and may be shared by ranks."""

    def __init__(self, model: Pixtral, shard: Shard) -> None:
        self._model, self._shard = model, shard
        self.routing = Routing()
        self._linears = {name: _wrapped(model, name, self.routing) for name in linear_shapes(shard.config)}

    def fill(self, slot: int, adapter: LoraAdapter) -> None:
        """Put an adapter into a slot, in place of what was there; after a failure the slot is empty."""
        self.clear(slot)
        self.routing.changes += 1
        try:
            for name in adapter.modules:
                a_RK, b_NR, scale = matrices_beside(self._model, name, adapter.modules[name], self._shard)
                self._linears[name].slots[slot] = a_RK, laid_out(b_NR), scale
        except BaseException:
            self.clear(slot)
            raise

    def clear(self, slot: int) -> None:
        self.routing.changes += 1
        for linear in self._linears.values():
            linear.slots.pop(slot, None)

    @contextmanager
    def routed(self, stretches: Sequence[Stretch]) -> Iterator[None]:
        """Compute the rows of each stretch with its slot's adapter."""
        self.routing.stretches = tuple(stretches)
        try:
            yield
        finally:
            self.routing.stretches = ()


def slot_bytes(config: ModelConfig, rank: int, itemsize: int) -> int:
    """Return the bytes of the largest adapter of this rank: one that changes all linears."""
    return rank * itemsize * sum(rows + columns for rows, columns in linear_shapes(config).values())


def _wrapped(model: Pixtral, name: str, routing: Routing) -> SlotLinear:
    """Wrap the model's linear `name`, inside what sums or gathers its ranks' parts."""
    outer: nn.Module = model.get_submodule(name)
    if isinstance(outer, RowParallelLinear | VocabularyParallelHead):
        wrapped = SlotLinear(outer.base, routing)
        outer.__dict__["base"] = wrapped
    else:
        wrapped = SlotLinear(outer, routing)
        replace(model, name, wrapped)
    return wrapped
