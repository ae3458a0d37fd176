"""Writes a model for llama.cpp: the text model, its image part and the tokenizer's file.

Matrices of the text model have the chosen type, its embeddings and head 8 bits if that is 4, as in
llama.cpp's own tools; norms are in float32. The image part keeps its dtype: it is small, and image
quality suffers first. Keys and token lists are those that llama.cpp's conversion/base.py,
conversion/mistral.py and conversion/llava.py write for Mistral's own layout.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, LlamaFileType, TokenType
from torch import Tensor

from tessera.errors import CheckpointError, UsageError
from tessera.images import MEAN, STD
from tessera.kernels.packed_weight import GROUP_COLUMNS
from tessera.model.config import ModelConfig
from tessera.model.vision import VISION_NORM_EPS
from tessera.prompt import Tokenizer
from tessera.weights.fill import Progress
from tessera.weights.gguf.blocks import PLAIN, quantize_rows
from tessera.weights.gguf.header import DEFAULT_ALIGNMENT, MAGIC, VERSIONS
from tessera.weights.gguf.names import IMAGE_BREAK, is_of_vision_part, to_gguf_name
from tessera.weights.gguf.read import (
    PRINTABLE,
    PROJECTOR,
    SPECIAL_TOKENS,
    VISION_ARCHITECTURE,
    VISION_THETA,
    written_token,
)
from tessera.weights.gguf.scaling import architecture_of, fixed_settings, scaling_values
from tessera.weights.source import HEAD, Source, has_tied_head
from tessera.weights.write import Report, write_files

Kind = GGMLQuantizationType
PANEL_WEIGHTS = 2**22
TYPES = {
    "bf16": (Kind.BF16, Kind.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q8_0, LlamaFileType.MOSTLY_Q4_0),
}
OF_DTYPE = {dtype: kind for kind, dtype in PLAIN.items()} | {torch.float64: Kind.F32}  # no file of models has F64
FILE_TYPES = {Kind.F32: LlamaFileType.ALL_F32, Kind.F16: LlamaFileType.MOSTLY_F16, Kind.BF16: LlamaFileType.MOSTLY_BF16}
QUANTIZATION_VERSION = 2  # of ggml's block formats
# Names by which llama.cpp knows chat formats, by the tokenizer's version.
CHAT_FORMATS = {"v3": "mistral-v3-tekken", "v7": "mistral-v7-tekken"}
VALUE_TYPES = {"I": GGUFValueType.UINT32, "i": GGUFValueType.INT32, "f": GGUFValueType.FLOAT32, "?": GGUFValueType.BOOL}


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor to be written: its shape in torch's order, and its bytes, made on demand."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    data: Callable[[], Iterator[bytes]]

    @property
    def num_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * block_bytes


def write_gguf(
    folder: Path,
    config: ModelConfig,
    sources: Mapping[str, Source],
    tokenizer_file: Path,
    kind: str,
    *,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint's model into the new folder as two GGUF files, streaming a panel of rows at a time.

    Raises UsageError for a model that llama.cpp cannot represent.
    """
    check_kind(kind)
    head = {HEAD} if has_tied_head(sources) else set()
    text = [
        _tensor(each, source, text_kind(each, source.stored.shape, source.stored.dtype, kind))
        for each, source in _part(sources, vision=False)
        if each not in head
    ]
    vision = [
        _tensor(each, source, vision_kind(each, source.stored.shape, source.stored.dtype))
        for each, source in _part(sources, vision=True)
    ]
    vision.append(_break_tensor(sources["tok_embeddings.weight"], config))
    write_pair(folder, folder.absolute().name, config, text, vision, tokenizer_file, kind, progress=progress)


def check_kind(kind: str) -> None:
    """Raise UsageError for a type that cannot be written."""
    if kind not in TYPES:
        raise UsageError(f"type {kind!r} is unknown; use {', '.join(TYPES)}.")


def write_pair(
    folder: Path,
    name: str,
    config: ModelConfig,
    text: Sequence[GGUFTensor],
    vision: Sequence[GGUFTensor],
    tokenizer_file: Path,
    kind: str,
    *,
    progress: Progress | None = None,
) -> None:
    """Write the tensors of both parts as NAME.KIND.gguf and mmproj-NAME.gguf, along with the tokenizer's file.

    Raises UsageError for a model that llama.cpp cannot represent.
    """
    tokenizer = Tokenizer.from_file(tokenizer_file, config.vision_encoder)
    _check_config(config, tokenizer, tokenizer_file)
    matrices = to_gguf_name("vision_encoder.transformer.layers.0.attention.wq.weight")
    (vision_type,) = [FILE_TYPES[tensor.kind] for tensor in vision if tensor.name == matrices]
    num_bytes = sum(tensor.num_bytes for tensor in (*text, *vision))
    write = partial(_write_file, report=Report(num_bytes, progress))
    text_values = _general("model", architecture_of(config), name, TYPES[kind][2]) | _text_values(config)
    vision_values = _general("mmproj", VISION_ARCHITECTURE, name, vision_type) | _vision_values(config)
    writers = {
        f"mmproj-{name}.gguf": partial(write, values=vision_values, tensors=vision),
        "tekken.json": partial(shutil.copyfile, tokenizer_file),
        f"{name}.{kind.upper()}.gguf": partial(
            write, values=text_values | _token_values(tokenizer, config.vocab_size), tensors=text
        ),
    }
    write_files(folder, writers, num_bytes)


def _check_config(config: ModelConfig, tokenizer: Tokenizer, tokenizer_file: Path) -> None:
    """Refuse settings that the files cannot express, because they are constants in llama.cpp."""
    vision = config.vision_encoder
    ids = {name: tokenizer.special_id(name) for name in SPECIAL_TOKENS.values()}
    wanted = {name: getattr(vision, key) for key, name in SPECIAL_TOKENS.items()}
    for what, value, needed in (
        ("the tokenizer's file", tokenizer_file.suffix, ".json"),
        *fixed_settings(config),
        ("the vision encoder's rope_theta", vision.rope_theta, VISION_THETA),
        ("the vision encoder's number of channels", vision.num_channels, 3),
        ("the ids of image tokens", ids, wanted),
    ):
        if value != needed:
            raise UsageError(f"{what} is {value!r}, and a GGUF file can only have {needed!r}; keep the model as it is.")


def _part(sources: Mapping[str, Source], *, vision: bool) -> Iterator[tuple[str, Source]]:
    return ((name, source) for name, source in sources.items() if is_of_vision_part(name) == vision)


def text_kind(name: str, shape: tuple[int, ...], dtype: torch.dtype, wanted: str) -> Kind:
    """Return the type of a text model's tensor when `wanted` is the model's type."""
    matrices, ends, _ = TYPES[wanted]
    if len(shape) == 1:
        return Kind.F32
    if shape[-1] % GROUP_COLUMNS:
        return OF_DTYPE[dtype]
    return ends if name in ("tok_embeddings.weight", "output.weight") else matrices


def vision_kind(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Kind:
    """Return the type of an image part's tensor: llama.cpp needs float32 norms, biases and convolution."""
    exact = len(shape) == 1 or name == "vision_encoder.patch_conv.weight"
    return Kind.F32 if exact else OF_DTYPE[dtype]


def _tensor(name: str, source: Source, kind: Kind) -> GGUFTensor:
    shape = source.stored.shape
    rows = max(PANEL_WEIGHTS // math.prod(shape[1:]), 1)
    return GGUFTensor(to_gguf_name(name), kind, shape, lambda: _encoded(kind, source.panels(rows)))


def _break_tensor(embeddings: Source, config: ModelConfig) -> GGUFTensor:
    """Return the embedding of [IMG_BREAK], which llama.cpp puts between the rows of an image's patches."""
    row = config.vision_encoder.image_break_token_id
    return GGUFTensor(
        IMAGE_BREAK, Kind.F32, (config.dim,), lambda: _encoded(Kind.F32, [embeddings.stored.rows(row, row + 1)])
    )


def _encoded(kind: Kind, panels: Iterable[Tensor]) -> Iterator[bytes]:
    """Yield a tensor's bytes in a type, one panel of rows after the other."""
    for panel in panels:
        if kind in PLAIN:
            yield panel.to(PLAIN[kind]).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        else:
            yield quantize_rows(kind, panel.float()).numpy().tobytes()


def _general(kind: str, architecture: str, name: str, file_type: LlamaFileType) -> dict[str, bytes]:
    return {
        "general.architecture": _text(architecture),
        "general.type": _text(kind),
        "general.name": _text(name),
        "general.file_type": _scalar("I", file_type),
        "general.quantization_version": _scalar("I", QUANTIZATION_VERSION),
    }


def _text_values(config: ModelConfig) -> dict[str, bytes]:
    values: dict[str, int | float | str] = {
        "block_count": config.n_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "vocab_size": config.vocab_size,
        **scaling_values(config),
    }
    return {f"{architecture_of(config)}.{key}": _value(value) for key, value in values.items()}


def _vision_values(config: ModelConfig) -> dict[str, bytes]:
    vision = config.vision_encoder
    values = {
        "clip.has_vision_encoder": _scalar("?", True),
        "clip.projector_type": _text(PROJECTOR),
        "clip.use_silu": _scalar("?", True),
        "clip.vision.image_size": _scalar("I", vision.image_size),
        "clip.vision.patch_size": _scalar("I", vision.patch_size),
        "clip.vision.embedding_length": _scalar("I", vision.hidden_size),
        "clip.vision.feed_forward_length": _scalar("I", vision.intermediate_size),
        "clip.vision.projection_dim": _scalar("I", config.dim),
        "clip.vision.block_count": _scalar("I", vision.num_hidden_layers),
        "clip.vision.attention.head_count": _scalar("I", vision.num_attention_heads),
        "clip.vision.attention.layer_norm_epsilon": _scalar("f", VISION_NORM_EPS),
        "clip.vision.image_mean": _array("f", MEAN),
        "clip.vision.image_std": _array("f", STD),
    }
    if vision.spatial_merge_size > 1:
        values["clip.vision.spatial_merge_size"] = _scalar("I", vision.spatial_merge_size)
    return values


def _token_values(tokenizer: Tokenizer, vocab_size: int) -> dict[str, bytes]:
    unused = range(tokenizer.vocab_size, vocab_size)
    tokens = [written_token(tokenizer, token) for token in range(tokenizer.vocab_size)]
    types = [
        TokenType.CONTROL if token in tokenizer.special_ids else TokenType.NORMAL
        for token in range(tokenizer.vocab_size)
    ]
    values = {
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("tekken"),
        "tokenizer.ggml.tokens": _texts([*tokens, *(f"[PAD{token}]".encode() for token in unused)]),
        "tokenizer.ggml.token_type": _array("i", [*types, *(TokenType.UNUSED for _ in unused)]),
        "tokenizer.ggml.merges": _texts(merges(tokenizer)),
        "tokenizer.ggml.bos_token_id": _scalar("I", tokenizer.bos_id),
        "tokenizer.ggml.eos_token_id": _scalar("I", tokenizer.eos_id),
        "tokenizer.ggml.add_bos_token": _scalar("?", True),
        "tokenizer.ggml.add_eos_token": _scalar("?", False),
    }
    for key, name in (("unknown", "<unk>"), ("padding", "<pad>")):
        if (token_id := tokenizer.special_id(name)) is not None:
            values[f"tokenizer.ggml.{key}_token_id"] = _scalar("I", token_id)
    if chat_format := CHAT_FORMATS.get(tokenizer.version):
        values["tokenizer.chat_template"] = _text(chat_format)
    return values


def merges(tokenizer: Tokenizer) -> list[bytes]:
    """Return the pairs that make each token, in the order of those tokens, as llama.cpp's merging needs them.

    tekken's file has no such list: its merging picks the pair whose joined bytes come first in
    the vocabulary, so every split of a token into two tokens is a pair, and they rank as the token does.
    Example: with the tokens a, b, c, ab, bc, abc the pairs are a+b, b+c, a+bc, ab+c.
    """
    ordinary = [token for token in range(tokenizer.vocab_size) if token not in tokenizer.special_ids]
    ranks = {tokenizer.token_bytes(token): rank for rank, token in enumerate(ordinary)}
    found = []
    for joined in ranks:
        splits = [(joined[:cut], joined[cut:]) for cut in range(1, len(joined))]
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        found += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [b" ".join(_printable(part) for part in pair) for pair in found]


def _printable(part: bytes) -> bytes:
    return "".join(PRINTABLE[byte] for byte in part).encode()


def _write_file(file: Path, values: Mapping[str, bytes], tensors: Sequence[GGUFTensor], report: Report) -> None:
    header = MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(values))
    header += b"".join(_counted(key.encode()) + value for key, value in values.items())
    start = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        header += _counted(tensor.name.encode())
        header += struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, tensor.kind, start)
        start += tensor.num_bytes + -tensor.num_bytes % DEFAULT_ALIGNMENT
    with file.open("wb") as out:
        out.write(_padded(header))
        for tensor in tensors:
            written = sum(out.write(piece) for piece in tensor.data())
            if written != tensor.num_bytes:
                raise CheckpointError(f"{tensor.name!r} has {written:,} bytes and should have {tensor.num_bytes:,}.")
            out.write(b"\0" * (-written % DEFAULT_ALIGNMENT))
            report.add(tensor.name, written)
        out.flush()
        os.fsync(out.fileno())


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % DEFAULT_ALIGNMENT)


def _counted(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(value: int | float | str) -> bytes:
    if isinstance(value, str):
        return _text(value)
    return _scalar("I" if isinstance(value, int) else "f", value)


def _scalar(code: str, value: float) -> bytes:
    return struct.pack("<I" + code, VALUE_TYPES[code], value)


def _text(text: str) -> bytes:
    return struct.pack("<I", GGUFValueType.STRING) + _counted(text.encode())


def _array(code: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}{code}", GGUFValueType.ARRAY, VALUE_TYPES[code], len(values), *values)


def _texts(texts: Iterable[bytes]) -> bytes:
    listed = [_counted(text) for text in texts]
    return struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.STRING, len(listed)) + b"".join(listed)
