"""GGUF models written by the gguf package, with its names and its number formats, not with our writer."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from tessera.model.config import ModelConfig
from tests.weights.checkpoints import LLAVA, tensors_of, write_tokenizer

# Where a block has its float16 scales, if not at its beginning alone.
SCALE_OFFSETS = dict.fromkeys((Kind.Q4_1, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K), (0, 2)) | {
    Kind.Q6_K: (208,),
    Kind.Q3_K: (108,),
    Kind.Q2_K: (80, 82),
}


@functools.cache
def _names(arch: gguf.MODEL_ARCH) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(arch, 8)


def gguf_name(name: str, config: ModelConfig) -> str:
    """llama.cpp's name of an official one, from the package's own tables."""
    stem, _, suffix = name.rpartition(".")
    # The adapter's are in no table: llama.cpp's conversion/pixtral.py has them as text.
    adapter = {"vision_language_adapter.w_in": "mm.1", "vision_language_adapter.w_out": "mm.2"}
    if stem in adapter:
        return f"{adapter[stem]}.{suffix}"
    arch = gguf.MODEL_ARCH.LLAMA if config.yarn is None else gguf.MODEL_ARCH.MISTRAL3
    if stem.startswith(("vision_encoder.", "patch_merger", "pre_mm")):
        arch = gguf.MODEL_ARCH.MMPROJ
    found = _names(arch).get_name(stem)
    assert found is not None, name
    return f"{found}.{suffix}"


def encode(values: Tensor, kind: Kind) -> np.ndarray[Any, Any]:
    """The package's bytes of a tensor in a type; for types that it cannot write, blocks of random bits."""
    try:
        return np.asarray(gguf.quants.quantize(values.float().numpy(), kind))
    except NotImplementedError:
        return random_blocks(kind, *values.shape)


def decode(blocks: np.ndarray[Any, Any], kind: Kind) -> Tensor:
    """The package's values of such bytes."""
    return torch.from_numpy(gguf.quants.dequantize(blocks, kind).copy())


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Blocks of random bits, uint8 (rows, bytes of a row), whose float16 scales are small numbers of either sign."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (rows, columns // block, block_bytes), dtype=np.uint8)
    for offset in SCALE_OFFSETS.get(kind, (0,)):
        scales = (generator.standard_normal((rows, columns // block)) * 1e-4).astype(np.float16)
        blocks[..., offset : offset + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def write_pair(
    folder: Path,
    kind: Kind | Mapping[str, Kind] = Kind.F32,
    *,
    config: ModelConfig = LLAVA,
    tensors: Mapping[str, Tensor] | None = None,
    vision_kind: Kind = Kind.F32,
    text_values: Mapping[str, Any] | None = None,
    vision_values: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> Path:
    """A text model and an mmproj of random weights (or these) with a tokenizer beside; the text model's file.

    `kind` is that of all matrices of the text model, or of each by official name (the others F32). Values
    replace metadata by full key; None removes a key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        write_tokenizer(folder / "tekken.json")
    else:
        (folder / "tekken.json").write_bytes(tokenizer.read_bytes())
    tensors = tensors_of(config, torch.float32) if tensors is None else tensors
    text, vision = folder / "tiny.gguf", folder / "mmproj-tiny.gguf"
    tokens = token_values((folder / "tekken.json").read_bytes())
    values = {text: _text_values(config) | tokens, vision: _vision_values(config)}
    for file, changes in ((text, text_values), (vision, vision_values)):
        values[file] |= changes or {}
        writer = gguf.GGUFWriter(file, architecture_of(config) if file == text else "clip")
        for key, value in values[file].items():
            if value is not None:
                _add(writer, key, value)
        for name, tensor in tensors.items():
            theirs = gguf_name(name, config)
            if theirs.startswith(("v.", "mm.")) == (file == text):
                continue
            wanted = kind if isinstance(kind, Kind) else kind.get(name, Kind.F32)
            wanted = wanted if file == text else vision_kind
            used = Kind.F32 if tensor.ndim != 2 else wanted
            data = encode(tensor, used)
            writer.add_tensor(theirs, data, raw_dtype=used)
        if file == vision:
            row = tensors["tok_embeddings.weight"][config.vision_encoder.image_break_token_id]
            writer.add_tensor("v.token_embd.img_break", row.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return text


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if key == "general.architecture":
        writer.kv_data[0].pop(key)
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@functools.cache
def token_values(tekken: bytes) -> dict[str, Any]:
    """What the package's converter makes of a tekken.json."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tekken.json").write_bytes(tekken)
        vocabulary = gguf.vocab.MistralVocab(Path(folder))
    tokens = list(vocabulary.all_tokens())
    return {
        "tokenizer.ggml.model": vocabulary.gguf_tokenizer_model,
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": [text.decode() for text, _, _ in tokens],
        "tokenizer.ggml.token_type": [int(kind) for _, _, kind in tokens],
        "tokenizer.ggml.merges": vocabulary.extract_vocab_merges_from_model(),
        "tokenizer.ggml.bos_token_id": vocabulary.bos_id,
        "tokenizer.ggml.eos_token_id": vocabulary.eos_id,
    }


def _vision_values(config: ModelConfig) -> dict[str, Any]:
    vision = config.vision_encoder
    merge = {"clip.vision.spatial_merge_size": vision.spatial_merge_size} if vision.spatial_merge_size > 1 else {}
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "pixtral",
        "clip.use_silu": True,
        "clip.vision.image_size": vision.image_size,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.embedding_length": vision.hidden_size,
        "clip.vision.feed_forward_length": vision.intermediate_size,
        "clip.vision.projection_dim": config.dim,
        "clip.vision.block_count": vision.num_hidden_layers,
        "clip.vision.attention.head_count": vision.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.48145466, 0.4578275, 0.40821073],
        "clip.vision.image_std": [0.26862954, 0.26130258, 0.27577711],
    } | merge


def architecture_of(config: ModelConfig) -> str:
    return gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA if config.yarn is None else gguf.MODEL_ARCH.MISTRAL3]


def _text_values(config: ModelConfig) -> dict[str, Any]:
    values = {
        "general.name": "tiny",
        "llama.block_count": config.n_layers,
        "llama.context_length": 1_024_000,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }
    arch = architecture_of(config)
    return {key.replace("llama.", f"{arch}."): value for key, value in values.items()} | scaling_values(config, arch)


def scaling_values(config: ModelConfig, arch: str = "mistral3") -> dict[str, Any]:
    """What llama.cpp's conversion/mistral.py writes of params.json's sections, under the package's keys."""
    if config.yarn is None or config.llama_4_scaling is None:
        return {}
    rope = gguf.Keys.Rope
    values = {
        rope.SCALING_TYPE: gguf.RopeScalingType.YARN.value,
        rope.SCALING_FACTOR: config.yarn.factor,
        rope.SCALING_YARN_BETA_FAST: config.yarn.beta,
        rope.SCALING_YARN_BETA_SLOW: config.yarn.alpha,
        rope.SCALING_YARN_LOG_MUL: 1.0,
        rope.SCALING_ORIG_CTX_LEN: config.yarn.original_max_position_embeddings,
        gguf.Keys.Attention.TEMPERATURE_SCALE: config.llama_4_scaling.beta,
    }
    return {key.format(arch=arch): value for key, value in values.items()}
