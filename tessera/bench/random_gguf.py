"""Random models as llama.cpp's two files: codes are drawn directly in its blocks of 32, with one scale for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from tessera.bench.random_values import codes, scale, vector
from tessera.model.config import ModelConfig
from tessera.weights.gguf.names import IMAGE_BREAK, is_of_vision_part, to_gguf_name
from tessera.weights.gguf.write import GGUFTensor, text_kind, vision_kind, write_pair

KINDS = {4: "q4_0", 8: "q8_0", 16: "bf16"}
NAME = "random"
BLOCK = 32


def file_names(bits: int) -> tuple[str, str]:
    """Return the names of the text model's and the vision part's files."""
    return f"{NAME}.{KINDS[bits].upper()}.gguf", f"mmproj-{NAME}.gguf"


def write_random_gguf(
    folder: Path, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], tokenizer: Path, bits: int
) -> None:
    """Write both files; the decoder's layers have `bits` bits, embeddings and head at least 8, the vision part 16."""
    text, vision = [], []
    for name, shape in shapes.items():
        if is_of_vision_part(name):
            vision.append(_tensor(name, shape, vision_kind(name, shape, torch.bfloat16)))
        else:
            text.append(_tensor(name, shape, text_kind(name, shape, torch.bfloat16, KINDS[bits])))
    row = partial(_row, shapes["tok_embeddings.weight"], config.vision_encoder.image_break_token_id)
    vision.append(GGUFTensor(IMAGE_BREAK, Kind.F32, (config.dim,), row))
    write_pair(folder, NAME, config, text, vision, tokenizer, KINDS[bits])


def _tensor(name: str, shape: tuple[int, ...], kind: Kind) -> GGUFTensor:
    return GGUFTensor(to_gguf_name(name), kind, shape, partial(_data, name, shape, kind))


def _data(name: str, shape: tuple[int, ...], kind: Kind) -> Iterator[bytes]:
    if len(shape) == 1:
        yield np.full(shape, vector(name), np.float32).tobytes()
        return
    bits = 4 if kind == Kind.Q4_0 else 8
    for band in codes(name, shape, bits):
        if kind in (Kind.Q4_0, Kind.Q8_0):
            yield _blocks(band.reshape(len(band), -1, BLOCK), scale(name, shape, bits), bits).tobytes()
            continue
        values = band * np.float32(scale(name, shape, bits))
        # The upper half of a float32 with this few digits is the same number in bfloat16.
        yield values.tobytes() if kind == Kind.F32 else (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _row(shape: tuple[int, ...], number: int) -> Iterator[bytes]:
    """Yield one embedding, which llama.cpp reads from the vision part; it is in the first band."""
    name = "tok_embeddings.weight"
    yield (next(codes(name, shape, 8))[number] * np.float32(scale(name, shape, 8))).tobytes()


def _blocks(codes: NDArray[np.int8], scale: float, bits: int) -> NDArray[np.uint8]:
    """Rows of blocks: the scale in float16, then 32 codes."""
    if bits == 4:
        nibbles = (codes + 8).view(np.uint8)
        codes = (nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4).view(np.int8)
    blocks = np.empty((*codes.shape[:2], 2 + codes.shape[2]), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    blocks[..., 2:] = codes.view(np.uint8)
    return blocks
