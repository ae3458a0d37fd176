"""Ranks as threads of one process, each with a copy of the model cut to its share, joined by gloo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from tessera.linears.parallel import parallelize
from tessera.linears.quantized import QuantizedLinear, place
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.parallel.group import Group
from tessera.parallel.shard import Shard
from tessera.quantize.rounding import round_to
from tests.engine.tiny import CONFIG, VISION, tiny_model

Result = TypeVar("Result")
# Shares of two ranks are whole tiles of 16 rows and groups of 32 columns everywhere.
DIVISIBLE = replace(
    CONFIG,
    dim=64,
    head_dim=16,
    hidden_dim=128,
    vocab_size=320,
    vision_encoder=replace(VISION, hidden_size=64, intermediate_size=64, num_attention_heads=4),
)
LINEARS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "w_in", "w_out", "output")


def random_model(config: ModelConfig = DIVISIBLE, scheme: str | None = None) -> Pixtral:
    """The tiny model, its linears quantized where a scheme is named."""
    model = tiny_model(config)
    for name, module in list(model.named_modules()) if scheme else []:
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in LINEARS:
            place(model, name, round_to(str(scheme), module.weight.detach()))
    return model.requires_grad_(False)


def cut(model: Pixtral, shard: Shard) -> Pixtral:
    """A copy that has only the share, as loading gives it."""
    part = copy.deepcopy(model)
    for name, module in list(part.named_modules()):
        if isinstance(module, QuantizedLinear):
            module.quantized = shard.shard_quantized(name, module.quantized)
    for name, parameter in list(part.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        kept = nn.Parameter(shard.shard(name, parameter.detach()), requires_grad=False)
        setattr(part.get_submodule(owner), attribute, kept)
    return part


def on_ranks(model: Pixtral, size: int, task: Callable[[Pixtral], Result]) -> list[Result]:
    """What the task gives on each rank of a model shared by `size`."""
    shards = [Shard(model.config, rank, size) for rank in range(size)]
    return together([(cut(model, shard), shard) for shard in shards], task)


def together(parts: Sequence[tuple[Pixtral, Shard]], task: Callable[[Pixtral], Result]) -> list[Result]:
    """What the task gives on each rank, whose part of the model is given."""
    store, size = dist.HashStore(), len(parts)

    def work(rank: int) -> Result:
        part, shard = parts[rank]
        parallelize(part, shard, Group(size, dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=60))))
        with torch.no_grad():
            return task(part)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, range(size)))
