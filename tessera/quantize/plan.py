"""Plans a quantization: the bits of each linear, and the units that are read, rounded and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tessera.errors import UsageError
from tessera.kernels.quantized_weight import STORAGE
from tessera.model.config import ModelConfig
from tessera.shelf import SCHEMES
from tessera.weights.fill import linear_shapes
from tessera.weights.source import Source

AS_IT_IS = "16"


@dataclass(frozen=True)
class Options:
    """The bits of each part: "3", "4", "8", "fp8", or "16", which leaves it unchanged."""

    bits: str = "4"  # the decoder's layers
    head: str = "8"
    vision: str = AS_IT_IS  # the encoder and the adapter

    def __post_init__(self) -> None:
        for name, value, known in (
            ("bits", self.bits, tuple(SCHEMES)),
            ("head", self.head, (*SCHEMES, AS_IT_IS)),
            ("vision", self.vision, (*SCHEMES, AS_IT_IS)),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; use {', '.join(known[:-1])} or {known[-1]}.")


@dataclass(frozen=True)
class Unit:
    """The tensors in memory at once, written as one file: a layer, the vision side, or embeddings and head."""

    name: str
    file: str
    tensors: tuple[str, ...]  # official names


def schemes_of(config: ModelConfig, options: Options) -> dict[str, str]:
    """Return the scheme of every linear to be quantized; matrices that their scheme cannot hold are left out."""
    shapes = linear_shapes(config)
    wished = {name: SCHEMES.get(_bits_of(name, options)) for name in shapes}
    return {
        name: scheme for name, scheme in wished.items() if scheme is not None and STORAGE[scheme].holds(shapes[name])
    }


def units_of(names: Iterable[str], num_layers: int) -> list[Unit]:
    """Return the model's tensors as units, in the order in which an image and a text pass them."""
    members: dict[str, list[str]] = {"vision": [], **{f"layers.{layer}": [] for layer in range(num_layers)}}
    members["outer"] = []
    for name in names:
        members[_unit_of(name)].append(name)
    return [Unit(name, _file_of(name), tuple(tensors)) for name, tensors in members.items()]


def linear_of(tensor: str) -> str:
    """Return the linear whose matrix a tensor would be: "layers.0.attention.wq" of "layers.0.attention.wq.weight"."""
    return tensor.removesuffix(".weight")


def bytes_needed(sources: Mapping[str, Source], schemes: Mapping[str, str], config: ModelConfig) -> int:
    """Return the size in bytes of the quantized model's tensors."""
    shapes = linear_shapes(config)
    plain = sum(source.stored.num_bytes for name, source in sources.items() if linear_of(name) not in schemes)
    fields = [field for name, scheme in schemes.items() for field in STORAGE[scheme].fields(shapes[name]).values()]
    return plain + sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in fields)


def _bits_of(linear: str, options: Options) -> str:
    if linear.startswith("layers."):
        return options.bits
    return options.head if linear == "output" else options.vision


def _unit_of(tensor: str) -> str:
    if tensor.startswith("layers."):
        return ".".join(tensor.split(".")[:2])
    return "outer" if tensor.startswith(("tok_embeddings.", "norm.", "output.")) else "vision"


def _file_of(unit: str) -> str:
    layer = unit.removeprefix("layers.")
    return f"{unit}.safetensors" if layer == unit else f"layers-{int(layer):02}.safetensors"
