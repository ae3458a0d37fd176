"""Random models as llama.cpp's two files: codes are drawn directly in blocks of 32, with one scale for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from tessera.bench.random_values import EMBEDDINGS, HEAD, codes, scale, vector
from tessera.images import MEAN, STD
from tessera.model.config import ModelConfig
from tessera.model.vision import VISION_NORM_EPS
from tessera.prompt import Tokenizer

KINDS = {4: Kind.Q4_0, 8: Kind.Q8_0, 16: Kind.BF16}
BLOCK = 32
IMAGE_BREAK = "v.token_embd.img_break"
PATCHES = "vision_encoder.patch_conv.weight"
OUTER_NAMES = {
    "tok_embeddings.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "output.weight": "output.weight",
    PATCHES: "v.patch_embd.weight",
    "vision_encoder.ln_pre.weight": "v.pre_ln.weight",
    "vision_language_adapter.w_in.weight": "mm.1.weight",
    "vision_language_adapter.w_in.bias": "mm.1.bias",
    "vision_language_adapter.w_out.weight": "mm.2.weight",
    "vision_language_adapter.w_out.bias": "mm.2.bias",
}
DECODER_NAMES = {
    "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate", "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm", "ffn_norm": "ffn_norm",
}  # fmt: skip
VISION_NAMES = DECODER_NAMES | {"attention.wo": "attn_out", "attention_norm": "ln1", "ffn_norm": "ln2"}


def write_random_gguf(
    text: Path,
    pictures: Path,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    tokenizer: Tokenizer,
    bits: int,
) -> None:
    """Write both files; the decoder's matrices have `bits` bits, the pictures' part 16, vectors 32."""
    text.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(text, "llama")
    _add_text_keys(writer, config)
    _add_tokens(writer, config, tokenizer)
    decoder = {name: shape for name, shape in shapes.items() if name.startswith(("layers.", "tok_", "norm", "output"))}
    _write_tensors(writer, decoder, bits)
    writer = gguf.GGUFWriter(pictures, "clip")
    _add_picture_keys(writer, config)
    eyes = {name: shape for name, shape in shapes.items() if name not in decoder}
    _write_tensors(writer, eyes | {IMAGE_BREAK: (config.dim,)}, 16)


def _add_text_keys(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokens(writer: gguf.GGUFWriter, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """tekken's tokens as a byte-pair vocabulary; what is measured are ids, so its merges are left out."""
    letters = gguf.vocab.bytes_to_unicode()
    special = tokenizer.special_ids
    tokens = [
        tokenizer.token_text(id_) if id_ in special else "".join(letters[byte] for byte in tokenizer.token_bytes(id_))
        for id_ in range(config.vocab_size)
    ]
    kinds = [gguf.TokenType.CONTROL if id_ in special else gguf.TokenType.NORMAL for id_ in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)


def _add_picture_keys(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    vision = config.vision_encoder
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("pixtral")
    writer.add_vision_use_silu(True)
    writer.add_vision_projection_dim(config.dim)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(VISION_NORM_EPS)
    writer.add_vision_image_mean(MEAN)
    writer.add_vision_image_std(STD)


def _write_tensors(writer: gguf.GGUFWriter, shapes: Mapping[str, tuple[int, ...]], bits: int) -> None:
    """Announce all tensors, then write them one after the other, none of them whole in memory."""
    for name, shape in shapes.items():
        kind = _kind(name, shape, bits)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        size = int(np.prod(shape)) // block * block_bytes
        writer.add_tensor_info(_gguf_name(name), shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = cast("list[BinaryIO]", writer.fout)
    for name, shape in shapes.items():
        writer.write_padding(file, file.tell())
        for data in _data(name, shape, _kind(name, shape, bits)):
            file.write(data)
    writer.write_padding(file, file.tell())
    writer.close()


def _kind(name: str, shape: tuple[int, ...], bits: int) -> Kind:
    if len(shape) == 1 or name == PATCHES:
        return Kind.F32
    return KINDS[max(bits, 8)] if name in (EMBEDDINGS, HEAD) else KINDS[bits]


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
        # The upper half of a float32 that has so few digits is the same number in bfloat16.
        yield values.tobytes() if kind == Kind.F32 else (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _blocks(codes: NDArray[np.int8], scale: float, bits: int) -> NDArray[np.uint8]:
    """Rows of blocks: the scale in float16, then 32 codes."""
    if bits == 4:
        nibbles = (codes + 8).view(np.uint8)
        codes = (nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4).view(np.int8)
    blocks = np.empty((*codes.shape[:2], 2 + codes.shape[2]), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    blocks[..., 2:] = codes.view(np.uint8)
    return blocks


def _gguf_name(name: str) -> str:
    """llama.cpp's name of an official one."""
    if name == IMAGE_BREAK:
        return name
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    names = VISION_NAMES if name.startswith("vision") else DECODER_NAMES
    prefix, _, rest = name.removeprefix("vision_encoder.transformer.").removeprefix("layers.").partition(".")
    return f"{'v.' if names is VISION_NAMES else ''}blk.{prefix}.{names[rest.removesuffix('.weight')]}.weight"
