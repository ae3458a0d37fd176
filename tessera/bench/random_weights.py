"""Models of true shapes with random weights, for measuring: speed depends on shapes and bits, not on values.

Three formats hold them: the official layout in bfloat16, our own folder with the decoder in 3, 4 or 8 bits
and the head in 8, and llama.cpp's two files. Matrices of 8 bits and of bfloat16 are the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tessera import __version__
from tessera.bench.random_gguf import write_random_gguf
from tessera.bench.random_values import codes, scale, vector
from tessera.errors import UsageError
from tessera.kernels.packed_weight import CENTRES, GROUP_COLUMNS, LEVELS, pack
from tessera.kernels.quantized_weight import STORAGE
from tessera.load import BUNDLED_FOLDER
from tessera.machine import free_disk_bytes, written_whole
from tessera.model.config import ModelConfig
from tessera.model.family import PIXTRAL_12B
from tessera.prompt import packaged_tokenizer_path
from tessera.quantize.plan import Options, linear_of, schemes_of, units_of
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.detect import MANIFEST
from tessera.weights.fill import empty_model
from tessera.weights.quantized import ALIGNMENT, LinearRecord, Manifest
from tessera.weights.write import Piece, write_folder, write_tensors

Format = Literal["mistral", "tessera", "gguf"]
FORMAT_BITS: dict[Format, tuple[int, ...]] = {"mistral": (16,), "tessera": (3, 4, 8), "gguf": (4, 8, 16)}
Shapes = dict[str, tuple[int, ...]]


def widths(name: str) -> tuple[ModelConfig, Path]:
    """Return the shapes of "12b" or "nano" and the tokenizer's file; raises UsageError for another name."""
    if name == "12b":
        return PIXTRAL_12B, packaged_tokenizer_path()
    if name == "nano":
        return open_checkpoint(BUNDLED_FOLDER).config, BUNDLED_FOLDER / "tekken.json"
    raise UsageError(f"the widths {name!r} are unknown; choose 12b or nano.")


def with_layers(config: ModelConfig, layers: int | None, vision_layers: int | None) -> ModelConfig:
    """Return the same widths with other numbers of layers; None keeps a number."""
    vision = config.vision_encoder
    return dataclasses.replace(
        config,
        n_layers=layers or config.n_layers,
        vision_encoder=dataclasses.replace(vision, num_hidden_layers=vision_layers or vision.num_hidden_layers),
    )


def write_random(folder: Path, config: ModelConfig, tokenizer: Path, form: Format, bits: int) -> None:
    """Write a model of random weights to a new folder, completely or not at all; raises UsageError."""
    if bits not in FORMAT_BITS[form]:
        known = " or ".join(map(str, FORMAT_BITS[form]))
        raise UsageError(f"the format {form} cannot hold {bits} bits; choose {known}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(config).named_parameters()}
    _check_place(folder, shapes, bits)
    with written_whole(folder) as partial:
        _write(partial, config, shapes, tokenizer, form, bits)


def _check_place(folder: Path, shapes: Shapes, bits: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; nothing is overwritten, so name a new one.")
    needed = 0.0
    for name, shape in shapes.items():
        stored_bits = 1.13 * bits if name.startswith("layers.") else 16.0  # 1.13: scales added to 4 bits
        needed += math.prod(shape) * stored_bits / 8
    free = free_disk_bytes(folder)
    if needed > free:
        raise UsageError(
            f"the model takes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free at {folder}; free some, or "
            "choose fewer layers."
        )


def _write(folder: Path, config: ModelConfig, shapes: Shapes, tokenizer: Path, form: Format, bits: int) -> None:
    if form == "mistral":
        write_folder(folder, "mistral", config, [_plain(name, shape) for name, shape in shapes.items()], tokenizer)
    elif form == "tessera":
        _write_quantized(folder, config, shapes, tokenizer, bits)
    else:
        write_random_gguf(folder, config, shapes, tokenizer, bits)


def _write_quantized(folder: Path, config: ModelConfig, shapes: Shapes, tokenizer: Path, bits: int) -> None:
    """Write what `tessera quantize --bits` would, without rounding anything."""
    options = Options(bits=str(bits))
    schemes, units = schemes_of(config, options), units_of(shapes, config.n_layers)
    folder.mkdir(parents=True)
    for unit in units:
        pieces: list[Piece] = []
        for name in unit.tensors:
            scheme = schemes.get(linear_of(name))
            pieces += [_plain(name, shapes[name])] if scheme is None else _packed(name, shapes[name], scheme)
        write_tensors(folder / unit.file, pieces, alignment=ALIGNMENT)
    shutil.copyfile(tokenizer, folder / "tekken.json")
    (folder / "params.json").write_text(json.dumps(config.to_params()), encoding="utf-8")
    manifest = Manifest(
        tool=f"tessera {__version__}",
        source="random",
        source_digest="none",
        options=dataclasses.asdict(options),
        files=tuple(unit.file for unit in units),
        linears={name: LinearRecord(scheme, weight_error=0.0) for name, scheme in schemes.items()},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.to_json()), encoding="utf-8")


def _plain(name: str, shape: tuple[int, ...]) -> Piece:
    """A tensor in bfloat16."""

    def data() -> Iterator[memoryview]:
        if len(shape) == 1:
            yield _bytes_of(torch.full(shape, vector(name), dtype=torch.bfloat16))
            return
        for band in codes(name, shape, 8):
            yield _bytes_of((torch.from_numpy(band) * scale(name, shape, 8)).bfloat16())

    return Piece(name, torch.bfloat16, shape, data)


def _packed(name: str, shape: tuple[int, ...], scheme: str) -> list[Piece]:
    """The fields of a packed linear: its codes, and their scales, which are all equal (super-scales too)."""
    fields = STORAGE[scheme].fields((shape[0], shape[1]))
    bits = fields["codes"][1][-1] // 64
    one = scale(name, shape, bits)
    # By the code or, with 3 bits, the level.
    places = torch.searchsorted(torch.tensor(LEVELS), torch.arange(LEVELS[-1] + 1)) if bits == 3 else torch.arange(256)
    values: dict[str, float] = {"scales": one}
    if "super_scales" in fields:
        values = {"scales": 1, "super_scales": one}

    def code_bytes() -> Iterator[memoryview]:
        for band in codes(name, shape, bits):
            codes_NK = places[torch.from_numpy(band).int() + CENTRES[bits]].to(torch.uint8)
            scales_NG = torch.full((len(band), shape[1] // GROUP_COLUMNS), one, dtype=torch.float16)
            yield _bytes_of(pack(codes_NK, scales_NG, bits=bits).codes)

    def filled(field: str) -> Iterator[memoryview]:
        dtype, size = fields[field]
        yield _bytes_of(torch.full(size, values[field], dtype=dtype))

    sources: dict[str, Callable[[], Iterator[memoryview]]] = {"codes": code_bytes}
    sources |= {field: partial(filled, field) for field in values}
    return [Piece(f"{linear_of(name)}.{field}", *fields[field], data) for field, data in sources.items()]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data
