"""Full training over several ranks: weights, gradients and moments cut by FSDP2, gathered block by block.

FSDP2's hooks fire at a module's call only, and every rank must call the same blocks in the same order. So a pass is
computed inside one call of `Whole`, and a rank whose pass lacks images or samples computes with others' shapes in mind
(`packing.shares`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from tessera.model.pixtral import Pixtral
from tessera.training.ranks import Ranks

ResultT = TypeVar("ResultT")


class Whole(nn.Module):
    """A model as one call: `whole(work)` is `work()`, during which the weights outside the blocks are there."""

    def __init__(self, model: Pixtral) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], ResultT]) -> ResultT:
        return work()


def shard(whole: Whole, ranks: Ranks) -> None:
    """Cut what is trained over the ranks; what is frozen stays whole on each, and is called whenever it is needed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # as slow to import as torch itself

    model = whole.model
    mesh = init_device_mesh(model.device.type, (ranks.size,))
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    blocks: list[nn.Module] = [*model.layers]
    if any(parameter.requires_grad for parameter in model.vision_encoder.parameters()):
        blocks += model.vision_encoder.transformer.layers
    for module in (*blocks, whole):
        fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=frozen)
