"""Merges an adapter into a model's weights, tensor by tensor: W + scale * B @ A, added in float32.

The base is either the full weights or the values of quantized ones, dequantized. An adapter trained over quantized
weights (QLoRA) has learnt to make up for their rounding; merged into the full weights it answers slightly differently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from tessera.errors import UsageError
from tessera.kernels.quantized_weight import QuantizedWeight, values_of
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.files import read_adapter
from tessera.weights.checkpoint import Checkpoint, open_checkpoint
from tessera.weights.convert import DEFAULT_TYPE, LAYOUTS
from tessera.weights.fill import Progress
from tessera.weights.safetensors import StoredTensor
from tessera.weights.source import Source, Transform
from tessera.weights.write import pieces_of, write_folder

Base = Literal["full", "quantized"]
BASES: tuple[Base, ...] = get_args(Base)
PANEL_ROWS = 1024  # changed at a time, in float32


@dataclass(frozen=True)
class Merged:
    """What was merged, for its user."""

    adapter: LoraAdapter
    counts: str
    base: Base
    dtype: torch.dtype


@dataclass(frozen=True)
class _MadeTensor(StoredTensor):
    """A tensor whose values are computed from quantized ones whenever they are read, so it is best read whole."""

    make: Callable[[], Tensor]

    def read(self) -> Tensor:
        return self.make()

    def read_into(self, tensor: Tensor) -> None:
        tensor.copy_(self.make())

    def rows(self, start: int, stop: int) -> Tensor:
        return self.make()[start:stop]


def merge(
    adapter: Path,
    model: Path,
    destination: Path,
    into: str,
    *,
    base: str = "full",
    kind: str | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Write the model with the adapter merged into it as a new folder in the layout `into`.

    `base` says what the adapter is added to: the "full" weights, or the values of "quantized" ones. `kind` is the type
    of a GGUF model's matrices. Raises UsageError for an invalid option, or a model that is not as `base` says;
    CheckpointError for an adapter that is not this model's.
    """
    layout = next((known for known in LAYOUTS if known == into), None)
    wanted = next((known for known in BASES if known == base), None)
    if layout is None or wanted is None:
        wrong, known = (into, LAYOUTS) if layout is None else (base, BASES)
        raise UsageError(f"{wrong!r} is unknown; use {', '.join(known)}.")
    if kind is not None and layout != "gguf":
        raise UsageError(f"type {kind!r} is for GGUF files; the layout {layout} keeps the dtypes: leave the type out.")
    checkpoint = open_checkpoint(model)
    _check_base(checkpoint, wanted)
    read = read_adapter(adapter, checkpoint.config)
    changed = {f"{name}.weight": module for name, module in read.modules.items()}
    sources = _plain(checkpoint, changed) if wanted == "quantized" else dict(checkpoint.sources)
    for name, module in changed.items():
        source = sources[name]
        sources[name] = replace(source, transform=_added(module, source.transform, source.stored.dtype))
    config, tokenizer = checkpoint.config, checkpoint.tokenizer_file
    if layout == "gguf":
        from tessera.weights.gguf.write import write_gguf

        write_gguf(destination, config, sources, tokenizer, kind or DEFAULT_TYPE, progress=progress)
    else:
        write_folder(destination, layout, config, pieces_of(sources, layout, config), tokenizer, progress=progress)
    dtype = sources[f"{next(iter(read.modules))}.weight"].stored.dtype
    return Merged(read, read.counts(config), wanted, dtype)


def _check_base(checkpoint: Checkpoint, base: Base) -> None:
    if checkpoint.is_quantized and base == "full":
        raise UsageError(
            f"{checkpoint.path} is quantized, and the base is to be the full weights; name the original model, or "
            "merge into the quantized values with --base quantized."
        )
    if not checkpoint.is_quantized and base == "quantized":
        raise UsageError(
            f"{checkpoint.path} holds full weights, and the base is to be quantized ones; name the quantized model "
            "that the adapter was trained over, or use --base full."
        )


def _plain(checkpoint: Checkpoint, changed: Collection[str]) -> dict[str, Source]:
    """Return the sources of a quantized model's tensors as plain values; those to be changed are not rounded yet."""
    dtype = checkpoint.dtype
    dtypes = dict.fromkeys(changed, torch.float32)
    sources = {name: _uncoded(source, dtype, dtypes.get(name, dtype)) for name, source in checkpoint.sources.items()}
    for name, linear in checkpoint.linears.items():
        make = _dequantizer(linear.load, dtypes.get(f"{name}.weight", dtype))
        sources[f"{name}.weight"] = Source(_MadeTensor(name, checkpoint.path, dtype, linear.shape, 0, make), _as_made)
    return sources


def _dequantizer(load: Callable[[], QuantizedWeight], dtype: torch.dtype) -> Callable[[], Tensor]:
    return lambda: values_of(load(), dtype)


def _uncoded(source: Source, dtype: torch.dtype, made: torch.dtype) -> Source:
    stored = source.stored
    if not stored.is_coded:
        return source
    tensor = _MadeTensor(stored.name, stored.file, dtype, stored.shape, 0, lambda: stored.read().to(made))
    return Source(tensor, source.transform or _as_made)


def _as_made(values: Tensor) -> Tensor:
    """A transform that changes nothing: a source with any is read whole, once, instead of panel by panel."""
    return values


def _added(module: LowRank, before: Transform | None, dtype: torch.dtype) -> Transform:
    """Return the transform of a weight that adds the adapter's change, rounded to this dtype."""

    def add(weight_NK: Tensor) -> Tensor:
        whole_NK = weight_NK if before is None else before(weight_NK)
        out_NK = torch.empty_like(whole_NK, dtype=dtype)
        for start in range(0, len(whole_NK), PANEL_ROWS):
            stop = min(start + PANEL_ROWS, len(whole_NK))
            out_NK[start:stop] = whole_NK[start:stop].float() + module.change(start, stop)
        return out_NK

    return add
