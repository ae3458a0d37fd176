"""Models of true shapes with random weights, for measuring: speed depends on shapes and bits, not on values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tessera.bench.random_gguf import write_random_gguf
from tessera.bench.random_values import bands, bfloat16_bytes, spread, turned, vector
from tessera.errors import UsageError
from tessera.load import BUNDLED_FOLDER, read_config
from tessera.model.config import ModelConfig
from tessera.model.family import PIXTRAL_12B
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.weights.stream import empty_model
from tessera.weights.write import Piece, write_folder

Format = Literal["mistral", "gguf"]
FORMAT_BITS: dict[Format, tuple[int, ...]] = {"mistral": (16,), "gguf": (4, 8, 16)}
TEXT, MMPROJ = "text.gguf", "mmproj.gguf"


def widths(name: str) -> tuple[ModelConfig, Path]:
    """The shapes of "12b" or "nano", and the tokenizer's file; raises UsageError for another name."""
    if name == "12b":
        return PIXTRAL_12B, packaged_tokenizer_path()
    if name == "nano":
        return read_config(BUNDLED_FOLDER, "mistral"), BUNDLED_FOLDER / "tekken.json"
    raise UsageError(f"the widths {name!r} are unknown; choose 12b or nano.")


def with_layers(config: ModelConfig, layers: int | None, vision_layers: int | None) -> ModelConfig:
    """The same widths with another number of layers; None leaves a number as it is."""
    vision = config.vision_encoder
    return dataclasses.replace(
        config,
        n_layers=layers or config.n_layers,
        vision_encoder=dataclasses.replace(vision, num_hidden_layers=vision_layers or vision.num_hidden_layers),
    )


def write_random(folder: Path, config: ModelConfig, tokenizer: Path, form: Format, bits: int) -> None:
    """Write a model of random weights into a new folder; raises UsageError when it holds files already.

    In GGUF these are two files, TEXT and MMPROJ; what is not a matrix of the decoder is kept in 16 bits or more.
    """
    if bits not in FORMAT_BITS[form]:
        raise UsageError(f"random weights in the format {form} have {FORMAT_BITS[form]} bits, not {bits}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(config).named_parameters()}
    if form == "mistral":
        write_folder(folder, "mistral", config, [_piece(name, shape) for name, shape in shapes.items()], tokenizer)
    else:
        write_random_gguf(
            folder / TEXT, folder / MMPROJ, config, shapes, Tokenizer.from_file(tokenizer, config.vision_encoder), bits
        )


def _piece(name: str, shape: tuple[int, ...]) -> Piece:
    def data() -> Iterator[bytes]:
        if len(shape) == 1:
            yield bfloat16_bytes(vector(name, shape))
            return
        for numbers, rows in bands(name, shape):
            values = numbers.standard_normal((rows, *shape[1:]), np.float32) * np.float32(spread(name, shape))
            yield bfloat16_bytes(turned(name, values))

    return Piece(name, torch.bfloat16, shape, data)
