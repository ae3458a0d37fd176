"""Makes a model without memory, checks that tensors match it, and fills it with them.

Names and shapes are checked against the model before the first byte of weights is read. Independent of layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.weights.safetensors import DTYPE_NAMES, PLAIN_DTYPES
from tessera.weights.source import Source

Progress = Callable[[str, int, int], None]  # tensor name, bytes done, bytes in all


class _Undrawn(TorchFunctionMode):
    """Skips random initialization: on the meta device it makes torch import modules for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def empty_model(config: ModelConfig) -> Pixtral:
    """Return the model on the meta device: all names and shapes, no memory."""
    with torch.device("meta"), _Undrawn():
        return Pixtral(config)


@cache
def linear_shapes(config: ModelConfig) -> Mapping[str, tuple[int, int]]:
    """Return a model's linears by name, in order, with their rows and columns; they are found once for each config."""
    modules = empty_model(config).named_modules()
    found = {name: (one.out_features, one.in_features) for name, one in modules if isinstance(one, nn.Linear)}
    return MappingProxyType(found)


def bare_name(name: str) -> str:
    """Strip the prefixes and suffixes that torch.compile, data parallelism and PEFT add to a tensor's name."""
    name = name.replace("_orig_mod.", "").removeprefix("module.")
    return name.removeprefix("base_model.model.")


def _is_adapters(name: str) -> bool:
    return ".lora_" in name or ".base_layer." in name


def check_sources(
    sources: Mapping[str, Source], config: ModelConfig, folder: Path, quantized: Collection[str] = ()
) -> dict[str, Source]:
    """Check the names and shapes of `sources`, and return them in the order of the model's tensors.

    `quantized` are the parameters held elsewhere. Raises CheckpointError for a tensor that is
    unexpected, missing, of another shape, or in a form reserved for quantized ones.
    """
    parameters = empty_model(config).named_parameters()
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters if name not in quantized}
    if unexpected := [name for name in sources if name not in shapes]:
        stored = sources[unexpected[0]].stored
        raise CheckpointError(
            f"{stored.file} holds {stored.name!r} (one of {len(unexpected)} such tensors), which "
            + (
                "is of an adapter; merge it into its model and save that, or"
                if _is_adapters(stored.name)
                else "this architecture does not have; the side files and the weights belong to different models:"
            )
            + " use those of one model."
        )
    if missing := [name for name in shapes if name not in sources]:
        raise CheckpointError(
            f"{folder}: {len(missing)} of the model's {len(shapes)} tensors are missing, first {missing[0]!r}; "
            "a weights file is absent or of another model: download it again."
        )
    for name, shape in shapes.items():
        stored = sources[name].stored
        if stored.shape != shape:
            raise CheckpointError(
                f"{stored.file}: {stored.name!r} has the shape {stored.shape}, the config asks for {shape}; "
                "the side files and the weights belong to different models: use those of one model."
            )
        if stored.dtype not in PLAIN_DTYPES:
            raise CheckpointError(
                f"{stored.file}: {stored.name!r} is stored as {DTYPE_NAMES[stored.dtype]}, which means nothing without "
                "the scales of a quantized model; use an unquantized checkpoint."
            )
    return {name: sources[name] for name in shapes}


def fill_model(
    model: Pixtral,
    sources: Mapping[str, Source],
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
    cut: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Fill a model made on the meta device with frozen parameters, each converted as it is read.

    `sources` are all of the model's, checked. Two names with one source share memory. `cut` may keep only part of
    a named parameter, so that a rank never holds more than its shard and one whole tensor.
    """
    done, total = 0, sum(source.stored.num_bytes for source in sources.values())
    placed: dict[Source, nn.Parameter] = {}
    for name, source in sources.items():
        whole = placed.get(source)
        if whole is None:
            whole = nn.Parameter(source.load(dtype, device), requires_grad=False)
        kept = whole if cut is None else cut(name, whole)
        if kept is whole:
            placed[source] = whole
        owner_name, _, parameter_name = name.rpartition(".")
        parameter = whole if kept is whole else nn.Parameter(kept, requires_grad=False)
        setattr(model.get_submodule(owner_name), parameter_name, parameter)
        done += source.stored.num_bytes
        if progress is not None:
            progress(name, done, total)
