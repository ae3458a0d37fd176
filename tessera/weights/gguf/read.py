"""Reads a text model and its image part from GGUF files: config and tensors; checks that the tokens match.

Each metadata key that could change the computation is checked, and an unknown one is refused by name.
The tokenizer is never made from the file (its token list does not say how text is split): it is
tekken's, and the file's list must agree with it. Keys: gguf's constants, and those that llama.cpp's
conversion/llama.py, conversion/llava.py and tools/mtmd/clip.cpp write and read.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tessera.errors import CheckpointError
from tessera.images import MEAN, STD
from tessera.model.config import ModelConfig, trained_context
from tessera.model.vision import VISION_NORM_EPS
from tessera.prompt import Tokenizer
from tessera.weights.checkpoint import Checkpoint, most_stored_dtype
from tessera.weights.detect import find_tokenizer
from tessera.weights.fill import check_sources, empty_model, linear_shapes
from tessera.weights.gguf.blocks import REQUANTIZED
from tessera.weights.gguf.header import Header, read_header
from tessera.weights.gguf.keys import Keys
from tessera.weights.gguf.names import IMAGE_BREAK, to_gguf_name
from tessera.weights.gguf.scaling import TEXT_ARCHITECTURES, read_scaling
from tessera.weights.gguf.stored import StoredBlocks, rounding_error, stored_tensor
from tessera.weights.safetensors import StoredTensor
from tessera.weights.source import EMBEDDINGS, HEAD, Source, StoredLinear

VISION_ARCHITECTURE, PROJECTOR = "clip", "pixtral"
VISION_THETA = 10_000.0  # only in files made from the official layout: a constant in llama.cpp
UNUSED_TOKEN = b"<SPECIAL_"
# The character for each byte in GPT-2's vocabularies: itself if printable, otherwise one from 256 on.
VISIBLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
HIDDEN = tuple(byte for byte in range(256) if byte not in VISIBLE)
PRINTABLE = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + place) for place, byte in enumerate(HIDDEN)}
SPECIAL_TOKENS = {"image_token_id": "[IMG]", "image_break_token_id": "[IMG_BREAK]", "image_end_token_id": "[IMG_END]"}


@dataclass(frozen=True)
class GGUFPair:
    """The headers of both files; `text.file` names the model."""

    text: Header
    vision: Header


def open(file: Path, mmproj: Path | None = None) -> Checkpoint:
    """Open the model in a text model's file and its image part's; raises CheckpointError."""
    pair = open_pair(file, mmproj)
    config = read_config(pair)
    sources, linears = read_weights(pair, config)
    # Files have float16 for a model trained in bfloat16, whose range float16 lacks.
    dtype = most_stored_dtype(sources.values())
    return Checkpoint(
        files=(pair.text.file, pair.vision.file),
        layout="gguf",
        folder=file.parent,
        config=config,
        sources=sources,
        linears=linears,
        dtype=torch.bfloat16 if dtype == torch.float16 else dtype,
        own_tokenizer=find_tokenizer(file.parent, "gguf", config),
        check_tokenizer=partial(check_tokens, pair.text),
        notes=partial(rounding_notes, pair, config),
    )


def open_pair(file: Path, mmproj: Path | None = None) -> GGUFPair:
    """Open the text model's file and its image part's, by default searched for next to it.

    Raises CheckpointError for files that are damaged or not such a pair.
    """
    text = read_header(file)
    if text.text("general.architecture") == VISION_ARCHITECTURE:
        raise CheckpointError(
            f"{file} is the vision part of a model; give the text model's file as the model and this one as --mmproj."
        )
    _expect_architecture(text, TEXT_ARCHITECTURES, "the text model")
    vision = read_header(_find_mmproj(file) if mmproj is None else mmproj)
    _expect_architecture(vision, (VISION_ARCHITECTURE,), "the vision part")
    return GGUFPair(text, vision)


def _find_mmproj(file: Path) -> Path:
    found = sorted(each for each in file.parent.glob("*.[gG][gG][uU][fF]") if "mmproj" in each.name.lower())
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{file.parent} holds {len(found)} vision parts ({', '.join(each.name for each in found)}); choose one "
            "with --mmproj."
        )
    raise CheckpointError(
        f"{file} is the text model alone, and there is no mmproj*.gguf beside it; give the file of its vision part "
        "with --mmproj (it is in the same repository as the text model)."
    )


def read_config(pair: GGUFPair) -> ModelConfig:
    """Read the model's config from both files' metadata; raises CheckpointError."""
    architecture = pair.text.text("general.architecture") or ""
    text, tokens = Keys(pair.text, f"{architecture}."), token_list(pair.text)
    dim, heads, context = (text.integer(k) for k in ("embedding_length", "attention.head_count", "context_length"))
    head_dim = text.integer("attention.key_length", dim // heads)
    for key, expected in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("vocab_size", len(tokens)),
        ("attention.sliding_window", context),
        ("expert_count", 0),
    ):
        text.check(key, expected)
    params = {
        "dim": dim,
        "n_layers": text.integer("block_count", limit=len(pair.text.tensors)),
        "head_dim": head_dim,
        "hidden_dim": text.integer("feed_forward_length"),
        "n_heads": heads,
        "n_kv_heads": text.integer("attention.head_count_kv", heads),
        "rope_theta": text.number("rope.freq_base"),
        "norm_eps": text.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": len(tokens),
        "max_seq_len": context,
        "tied_embeddings": is_tied(pair.text),
        **read_scaling(text, architecture),
        "vision_encoder": _vision_params(pair.vision) | _special_ids(pair.text.file, tokens),
    }
    text.refuse_others()
    return trained_context(ModelConfig.from_params(params, str(pair.text.file)))


def _vision_params(header: Header) -> dict[str, Any]:
    keys = Keys(header, "clip.")
    keys.check("has_vision_encoder", True)
    keys.check("has_audio_encoder", False)
    keys.check("projector_type" if "clip.projector_type" in header.values else "vision.projector_type", PROJECTOR)
    width, heads = keys.integer("vision.embedding_length"), keys.integer("vision.attention.head_count")
    merge = keys.integer("vision.spatial_merge_size", 1)
    for key, expected in (
        ("vision.attention.head_count_kv", heads),
        ("vision.attention.head_dim", width // heads),
        ("vision.attention.layer_norm_epsilon", VISION_NORM_EPS),
    ):
        keys.check(key, expected)
    keys.check_colours("vision.image_mean", MEAN)
    keys.check_colours("vision.image_std", STD)
    params = {
        "hidden_size": width,
        "image_size": keys.integer("vision.image_size"),
        "patch_size": keys.integer("vision.patch_size"),
        "rope_theta": keys.number("rope.freq_base", VISION_THETA),
        "intermediate_size": keys.integer("vision.feed_forward_length"),
        "num_hidden_layers": keys.integer("vision.block_count", limit=len(header.tensors)),
        "num_attention_heads": heads,
        "adapter_bias": "mm.1.bias" in header.tensors,
        "mm_projector_id": "patch_merge" if merge > 1 else "",
        "spatial_merge_size": merge,
        "add_pre_mm_projector_layer_norm": "mm.input_norm.weight" in header.tensors,
    }
    keys.refuse_others()
    return params


def _special_ids(file: Path, tokens: list[bytes]) -> dict[str, int]:
    absent = [name for name in SPECIAL_TOKENS.values() if name.encode() not in tokens]
    if absent:
        raise CheckpointError(
            f"{file} has no token {absent[0]}, so it is not a model that sees images; use one of the Pixtral family."
        )
    return {key: tokens.index(name.encode()) for key, name in SPECIAL_TOKENS.items()}


def token_list(header: Header) -> list[bytes]:
    """Return the tokens by id, as written in the byte-pair vocabulary; raises CheckpointError for any other kind."""
    kind, tokens = header.text("tokenizer.ggml.model"), header.values.get("tokenizer.ggml.tokens")
    if kind != "gpt2" or not isinstance(tokens, list):
        raise CheckpointError(
            f"{header.file}: tokenizer.ggml.model is {reprlib.repr(kind)}, and only tekken's byte-pair vocabulary "
            "('gpt2') is read from GGUF files; use the model's folder of safetensors."
        )
    return tokens


def check_tokens(header: Header, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError if the file's token list is not the tokenizer's; unused ids are not compared."""
    tokens = token_list(header)
    for token_id in range(tokenizer.vocab_size):
        written = written_token(tokenizer, token_id)
        if written != tokens[token_id] and not written.startswith(UNUSED_TOKEN):
            listed = reprlib.repr(tokens[token_id].decode(errors="replace"))
            raise CheckpointError(
                f"{header.file}: token {token_id} is {listed} there and {written.decode()!r} in the tokenizer; put the "
                "tekken.json of this model beside the file."
            )


def written_token(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Return a token as GGUF lists it: special ones by name, others with each byte as a printable character."""
    if token_id in tokenizer.special_ids:
        return tokenizer.token_text(token_id).encode()
    return "".join(PRINTABLE[byte] for byte in tokenizer.token_bytes(token_id)).encode()


def is_tied(text: Header) -> bool:
    """Return True if the file has no head of its own: llama.cpp then takes the embeddings."""
    return to_gguf_name(HEAD) not in text.tensors


def read_weights(pair: GGUFPair, config: ModelConfig) -> tuple[dict[str, Source], dict[str, StoredLinear]]:
    """Find the plain tensors, by official name, and the linears that stay quantized; reads headers only.

    Raises CheckpointError for a tensor that is missing, unexpected, of another shape or of an unsupported type.
    """
    official = {to_gguf_name(name): name for name, _ in empty_model(config).named_parameters()}
    stored: dict[str, StoredTensor] = {}
    for header in (pair.text, pair.vision):
        for name, entry in header.tensors.items():
            # A name not in the table is kept, and is refused later with its file's name.
            tensor = stored_tensor(header.file, entry)
            if (twin := stored.setdefault(official.get(name, name), tensor)) is not tensor:
                raise CheckpointError(f"the tensor {name!r} is in both {twin.file} and {header.file}; use one model's.")
    row, embeddings = stored.pop(IMAGE_BREAK, None), stored.get(EMBEDDINGS)
    if row is not None and isinstance(embeddings, StoredBlocks):
        # Rounded in the text model's file; llama.cpp reads it from here too.
        exact = config.vision_encoder.image_break_token_id, row
        stored[EMBEDDINGS] = dataclasses.replace(embeddings, exact_row=exact)
    if config.tied_embeddings and embeddings is not None:
        stored[HEAD] = embeddings
    sources = check_sources({name: Source(tensor) for name, tensor in stored.items()}, config, pair.text.file)
    if row is not None and row.shape != (config.dim,):
        raise CheckpointError(
            f"{row.file}: {row.name!r} has the shape {row.shape}, and the embeddings are {config.dim} wide; the files "
            "belong to different models: use those of one."
        )
    linears = {
        name: tensor.linear()
        for name in linear_shapes(config)
        if isinstance(tensor := sources[f"{name}.weight"].stored, StoredBlocks)
    }
    return {name: source for name, source in sources.items() if name.removesuffix(".weight") not in linears}, linears


def rounding_notes(pair: GGUFPair, config: ModelConfig) -> tuple[str, ...]:
    """Describe the types that do not fit the packed layout and are rounded to 8 bits, with the measured error."""
    official = {to_gguf_name(f"{name}.weight") for name in linear_shapes(config)}
    if config.tied_embeddings:
        official.add(to_gguf_name(EMBEDDINGS))
    rounded = [
        tensor
        for header in (pair.text, pair.vision)
        for name, entry in header.tensors.items()
        if name in official and isinstance(tensor := stored_tensor(header.file, entry), StoredBlocks)
        if tensor.kind in REQUANTIZED
    ]
    if not rounded:
        return ()
    kinds = sorted({tensor.kind.name for tensor in rounded})
    return (
        f"{len(rounded)} tensors of {' and '.join(kinds)} are rounded to 8 bits, off by {rounding_error(rounded):.2%} "
        "(root mean square)",
    )


def _expect_architecture(header: Header, wanted: tuple[str, ...], what: str) -> None:
    found = header.text("general.architecture")
    if found not in wanted:
        raise CheckpointError(
            f"{header.file} is of the architecture {reprlib.repr(found)}, and {what} of the Pixtral family has "
            f"{' or '.join(map(repr, wanted))}; use its files."
        )
