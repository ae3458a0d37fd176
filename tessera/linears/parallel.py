"""Linears split over ranks, which replace the model's whole ones.

A linear split by outputs is just a smaller linear. One split by inputs returns a partial sum, and the
head a part of the vocabulary: these are wrapped, so that their results are whole.
"""

from __future__ import annotations

from torch import Tensor, nn

from tessera.linears.replace import Wrapper, product, replace
from tessera.model.pixtral import Pixtral
from tessera.parallel.group import Group
from tessera.parallel.shard import COLUMNS, HEAD, Shard


class RowParallelLinear(Wrapper):
    """A linear with a part of the inputs: the ranks' results are summed, and a bias is added once."""

    def __init__(self, base: nn.Module, group: Group) -> None:
        super().__init__(base)
        self.group = group

    def product(self, inputs: Tensor) -> Tensor:
        return self.group.all_reduce(product(self.base, inputs))


class VocabularyParallelHead(Wrapper):
    """The head's part for some of the ids; every rank gets the logits of all ids."""

    def __init__(self, base: nn.Module, group: Group) -> None:
        super().__init__(base)
        self.group = group

    def product(self, inputs: Tensor) -> Tensor:
        return self.group.all_gather(product(self.base, inputs))


def parallelize(model: Pixtral, shard: Shard, group: Group) -> None:
    """Make a model with sharded weights compute with the other ranks."""
    for name, module in list(model.named_modules()):
        if COLUMNS.fullmatch(name):
            replace(model, name, RowParallelLinear(module, group))
        elif name == HEAD and shard.splits_head:
            replace(model, name, VocabularyParallelHead(module, group))
    model.config = shard.rank_config
