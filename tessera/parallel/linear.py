"""Linears of which a rank holds a part, and putting them where whole ones stood.

A linear that gave up outputs stays as it is, only smaller. One that gave up inputs gives a partial
sum, and the head a part of the vocabulary: these are wrapped, so that what leaves them is whole.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tessera.model.pixtral import Pixtral
from tessera.parallel.group import Group
from tessera.parallel.share import COLUMNS, HEAD, Share


class RowParallelLinear(nn.Module):
    """A linear that has a part of the inputs: the ranks' results are summed, and a bias is added once."""

    bias: nn.Parameter | None

    def __init__(self, part: nn.Linear, group: Group) -> None:
        super().__init__()
        self.bias = part.bias
        part.bias = None  # type: ignore[assignment]
        self.part = part
        self.group = group

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.group.sum(self.part(inputs))
        return out if self.bias is None else out + self.bias


class VocabularyParallelHead(nn.Module):
    """The head's part for some of the ids; every rank gets the logits of all."""

    def __init__(self, part: nn.Module, group: Group) -> None:
        super().__init__()
        self.part = part
        self.group = group

    def forward(self, hidden_RD: Tensor) -> Tensor:
        return self.group.join(self.part(hidden_RD))


def join(model: Pixtral, share: Share, group: Group) -> None:
    """Make a model whose weights are cut to the share compute with the other ranks."""
    for name, module in list(model.named_modules()):
        owner_name, _, attribute = name.rpartition(".")
        if COLUMNS.fullmatch(name):
            # A packed or fp8 linear has a plain one's attributes.
            setattr(model.get_submodule(owner_name), attribute, RowParallelLinear(cast(nn.Linear, module), group))
        elif name == HEAD and share.splits_head:
            model.output = VocabularyParallelHead(module, group)  # type: ignore[assignment]
    model.config = share.rank_config
