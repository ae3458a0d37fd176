"""A checkpoint made smaller: each layer is read, rounded, written and forgotten, so memory holds about one.

The folder is written file by file, and its manifest grows with it under another name; a run that was
interrupted finds both and goes on. Only when the manifest gets its name, at the end, is the folder a
model. Which linear gets which scheme is decided here; how one is rounded, in `tessera.quant`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from tessera import __version__
from tessera.errors import CheckpointError, UsageError
from tessera.load import model_name, read_config, read_weights
from tessera.machine import free_disk_bytes
from tessera.model.config import ModelConfig
from tessera.quant.rounding import round_to, weight_error
from tessera.weights.detect import MANIFEST, UNFINISHED, detect, tokenizer_file
from tessera.weights.quantized import (
    ALIGNMENT,
    LinearRecord,
    Manifest,
    fields_of,
    holds,
    linear_shapes,
    read_manifest,
)
from tessera.weights.stream import Source
from tessera.weights.write import PARTIAL, Piece, piece_of_tensor, pieces_of, write_tensors

DIGESTED_BYTES = 4096  # of each tensor: enough to tell two models of one shape apart, in no time
SCHEMES_BY_BITS = {"4": "int4", "8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class Options:
    """In how many bits each part is held: of "4", "8", "fp8" and "16", which leaves it as it is."""

    bits: str = "4"  # the decoder's layers
    head: str = "8"
    vision: str = "16"  # the encoder and the adapter

    def __post_init__(self) -> None:
        for name, value, known in (
            ("bits", self.bits, ("4", "8", "fp8")),
            ("head", self.head, ("4", "8", "fp8", "16")),
            ("vision", self.vision, ("8", "fp8", "16")),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; use {', '.join(known[:-1])} or {known[-1]}.")


@dataclass(frozen=True)
class Unit:
    """What is held in memory at once and written as one file: a layer, or one of the other parts."""

    name: str
    file: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A unit that is done, for whoever watches: its linears and their errors."""

    unit: str
    number: int
    total: int
    linears: Mapping[str, LinearRecord]


def quantize(
    source: Path, destination: Path, options: Options, *, watch: Callable[[Step], None] | None = None
) -> Manifest:
    """Write the model in `source`, quantized, into the folder `destination`; goes on with an interrupted run.

    Raises UsageError for a wrong wish, CheckpointError for a source that is not whole.
    """
    layout = detect(source)
    if layout == "tessera":
        raise UsageError(f"{source} is quantized already; quantize the original, since errors would add up.")
    if destination.resolve() == source.resolve():
        raise UsageError(f"{destination} is the source itself; name a new folder.")
    config = read_config(source, layout)
    sources, _ = read_weights(source, layout, config)
    tokenizer = tokenizer_file(source, layout, config)
    schemes = plan(config, options)
    units = units_of(config, list(sources))
    begun = Manifest(
        tool=f"tessera {__version__}",
        source=model_name(source),
        source_digest=digest(sources),
        options=asdict(options),
        files=tuple(unit.file for unit in units),
        linears={},
    )
    manifest = _begin(destination, begun, _bytes_needed(sources, schemes, config))
    for number, unit in enumerate(units, 1):
        names = {name for name in map(_linear_of, unit.tensors) if name in schemes}
        if not (destination / unit.file).is_file() or not names <= manifest.linears.keys():
            records = _write_unit(destination / unit.file, unit, sources, schemes, config)
            manifest = replace(manifest, linears={**manifest.linears, **records})
            _write_json(destination / UNFINISHED, manifest.to_json())
        if watch is not None:
            watch(Step(unit.name, number, len(units), {name: manifest.linears[name] for name in names}))
    shutil.copyfile(tokenizer, destination / ("tekken.json" if tokenizer.suffix == ".json" else tokenizer.name))
    _write_json(destination / "params.json", config.to_params())
    (destination / UNFINISHED).replace(destination / MANIFEST)
    return manifest


def plan(config: ModelConfig, options: Options) -> dict[str, str]:
    """The scheme of every linear that is to be quantized; a matrix that its scheme cannot hold stays as it is."""
    wished = {name: SCHEMES_BY_BITS.get(_bits_of(name, options)) for name in linear_shapes(config)}
    shapes = linear_shapes(config)
    return {name: scheme for name, scheme in wished.items() if scheme is not None and holds(scheme, shapes[name])}


def _bits_of(linear: str, options: Options) -> str:
    if linear.startswith("layers."):
        return options.bits
    return options.head if linear == "output" else options.vision


def units_of(config: ModelConfig, names: list[str]) -> list[Unit]:
    """The model's tensors in the order in which a picture and a text pass them, cut into units."""
    members: dict[str, list[str]] = {"vision": [], **{f"layers.{layer}": [] for layer in range(config.n_layers)}}
    members["outer"] = []
    for name in names:
        if name.startswith("layers."):
            members[".".join(name.split(".")[:2])].append(name)
        else:
            outer = name.startswith(("tok_embeddings.", "norm.", "output."))
            members["outer" if outer else "vision"].append(name)
    return [Unit(name, f"{_file_stem(name)}.safetensors", tuple(tensors)) for name, tensors in members.items()]


def digest(sources: Mapping[str, Source]) -> str:
    """What tells this checkpoint from others: a SHA-256 of all names, dtypes, shapes and first bytes."""
    seen = hashlib.sha256()
    for name, source in sources.items():
        stored = source.stored
        seen.update(f"{name} {stored.dtype} {stored.shape}\n".encode() + stored.first_bytes(DIGESTED_BYTES))
    return f"sha256:{seen.hexdigest()}"


def _begin(destination: Path, begun: Manifest, needed: int) -> Manifest:
    """The manifest to go on with: a new one, or that of an interrupted run with the same wishes."""
    unfinished = destination / UNFINISHED
    if unfinished.is_file():
        manifest = read_manifest(unfinished)
        if replace(manifest, linears={}) != begun:
            raise UsageError(
                f"{destination} holds an unfinished quantization of {manifest.source} with other options or weights "
                f"({_shown(manifest.options)}); finish that one, or name a new folder."
            )
        needed -= sum(file.stat().st_size for file in destination.iterdir())
    elif destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(
            f"{destination} is there already and not an empty folder; nothing is overwritten, name a new one."
        )
    else:
        manifest = begun
    if needed > (free := free_disk_bytes(destination)):
        raise UsageError(
            f"the quantized model takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB is free at {destination}; free "
            "some, or name a folder on a larger disk."
        )
    destination.mkdir(parents=True, exist_ok=True)
    _write_json(unfinished, manifest.to_json())
    return manifest


def _write_unit(
    file: Path, unit: Unit, sources: Mapping[str, Source], schemes: Mapping[str, str], config: ModelConfig
) -> dict[str, LinearRecord]:
    pieces: list[Piece] = []
    records: dict[str, LinearRecord] = {}
    for name in unit.tensors:
        linear = _linear_of(name)
        if linear not in schemes:
            pieces += pieces_of({name: sources[name]}, "mistral", config)
            continue
        matrix_NK = sources[name].read()
        if not torch.isfinite(matrix_NK).all():
            raise CheckpointError(
                f"{sources[name].stored.file}: {name!r} holds numbers that are infinite or NaN; download it again."
            )
        weight = round_to(schemes[linear], matrix_NK)
        records[linear] = LinearRecord(schemes[linear], weight_error(matrix_NK, weight))
        pieces += [piece_of_tensor(f"{linear}.{field}", tensor) for field, tensor in weight.tensors.items()]
    partial = file.with_name(f".{file.name}{PARTIAL}")
    write_tensors(partial, pieces, alignment=ALIGNMENT)
    partial.replace(file)
    return records


def _linear_of(tensor: str) -> str:
    """The linear whose matrix a tensor would be: "layers.0.attention.wq" of "layers.0.attention.wq.weight"."""
    return tensor.removesuffix(".weight")


def _bytes_needed(sources: Mapping[str, Source], schemes: Mapping[str, str], config: ModelConfig) -> int:
    shapes = linear_shapes(config)
    plain = sum(source.stored.num_bytes for name, source in sources.items() if _linear_of(name) not in schemes)
    fields = [field for name, scheme in schemes.items() for field in fields_of(scheme, shapes[name]).values()]
    return plain + sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in fields)


def _file_stem(unit: str) -> str:
    return f"layers-{int(unit.removeprefix('layers.')):02}" if unit.startswith("layers.") else unit


def _shown(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _write_json(file: Path, content: object) -> None:
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
