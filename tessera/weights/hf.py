"""Hugging Face's layout: config.json and sharded safetensors, as LLaVA (Pixtral) or Mistral3.

Converts the config in both directions and checks its settings; `hf_names` maps the tensors, `published` the
quantized ones. Source: transformers' LlavaConfig, Mistral3Config, PixtralVisionConfig and MistralConfig, as
4 and 5 save them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tessera.errors import CheckpointError
from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig, trained_context
from tessera.model.vision import VISION_NORM_EPS
from tessera.weights import hf_rope, published
from tessera.weights.checkpoint import Checkpoint, checkpoint_of_folder
from tessera.weights.detect import read_json
from tessera.weights.hf_names import classic_tensors, has_tied_head, plain_sources

# Saves leave out what equals the defaults of transformers' classes. These are the keys that Pixtral's
# own uploads leave out, with those defaults; every other key must be there.
TEXT_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": MAX_CONTEXT_TOKENS,
    "model_type": "mistral",
    "hidden_act": "silu",
    "sliding_window": None,
}
MINISTRAL_DEFAULTS = TEXT_DEFAULTS | {"max_position_embeddings": 262_144}
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "rope_theta": 10_000.0,
    "model_type": "pixtral",
    "hidden_act": "gelu",
}
# Ids of [IMG_BREAK] and [IMG_END] where no tokenizer file names them: those of the tekken vocabulary,
# and those of Pixtral Large's SentencePiece vocabulary, told by its size.
TEKKEN_IDS, SENTENCEPIECE_IDS = (12, 13), (14, 15)
SENTENCEPIECE_VOCAB_SIZE = 32_768
ARCHITECTURES = {"llava": "LlavaForConditionalGeneration", "mistral3": "Mistral3ForConditionalGeneration"}
# Early uploads say gelu for the vision tower, and so does the class's default; the weights want SiLU.
VISION_ACTIVATIONS = ("silu", "gelu")


def open(folder: Path) -> Checkpoint:
    """Open the model in a folder, plain or quantized; raises CheckpointError."""
    config, tensors = read_config(folder), classic_tensors(folder)
    if has_tied_head(tensors):
        config = replace(config, tied_embeddings=True)
    if published.is_quantized(folder):
        return checkpoint_of_folder(folder, "hf", config, *published.read(folder, tensors, config))
    return checkpoint_of_folder(folder, "hf", config, plain_sources(tensors, config, folder))


def read_config(folder: Path) -> ModelConfig:
    """Read the model's config from config.json and the tokenizer's side files.

    Raises CheckpointError for a model outside the Pixtral family, and for settings that would change
    the computation.
    """
    where = str(folder / "config.json")
    hf = read_json(folder / "config.json")
    kind, text, vision = hf.get("model_type"), hf.get("text_config"), hf.get("vision_config")
    if str(kind) not in ARCHITECTURES or not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise CheckpointError(
            f"{where}: model_type {kind!r} is not of the Pixtral family; use a model of type "
            f"{' or '.join(ARCHITECTURES)} with a text_config and a vision_config."
        )
    text, vision = {**_text_defaults(text), **text}, {**VISION_DEFAULTS, **vision}
    merged = kind == "mistral3"
    _check_settings(hf, text, vision, merged, where)
    width, heads = _integer(text, "hidden_size", where), _integer(text, "num_attention_heads", where)
    image_break, image_end = _break_ids(folder, _need(text, "vocab_size", where))
    params = {
        "dim": width,
        "n_layers": _need(text, "num_hidden_layers", where),
        "head_dim": text.get("head_dim") or width // heads,
        "hidden_dim": text["intermediate_size"],
        "n_heads": heads,
        "n_kv_heads": text["num_key_value_heads"],
        "rope_theta": hf_rope.theta(text, where),
        **hf_rope.scaling(text, where),
        "norm_eps": _need(text, "rms_norm_eps", where),
        "vocab_size": text["vocab_size"],
        "max_seq_len": _integer(text, "max_position_embeddings", where),
        "vision_encoder": {
            "hidden_size": vision["hidden_size"],
            "image_size": _side(vision["image_size"]),
            "patch_size": _side(vision["patch_size"]),
            "rope_theta": hf_rope.theta(vision, where),
            "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "num_channels": vision["num_channels"],
            "image_token_id": hf.get("image_token_index", hf.get("image_token_id", 10)),
            "image_break_token_id": image_break,
            "image_end_token_id": image_end,
            "adapter_bias": hf.get("multimodal_projector_bias", not merged),
            "mm_projector_id": "patch_merge" if merged else "",
            "spatial_merge_size": hf.get("spatial_merge_size", 2) if merged else 1,
            "add_pre_mm_projector_layer_norm": merged,
        },
    }
    return trained_context(ModelConfig.from_params(params, where))


def write_config(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the content of config.json that transformers reads as the same model.

    Raises CheckpointError for a model that transformers has no class for.
    """
    vision = config.vision_encoder
    merged = vision.spatial_merge_size > 1
    if merged != vision.add_pre_mm_projector_layer_norm or (merged and config.norm_eps != VISION_NORM_EPS):
        raise CheckpointError(
            "Hugging Face's layout knows the merge and its norm only together, with norm_eps "
            f"{VISION_NORM_EPS}; this model has spatial_merge_size {vision.spatial_merge_size}, norm "
            f"{vision.add_pre_mm_projector_layer_norm} and norm_eps {config.norm_eps}: keep it in the mistral layout."
        )
    kind = "mistral3" if merged else "llava"
    extra = {"spatial_merge_size": vision.spatial_merge_size} if merged else {"vision_feature_select_strategy": "full"}
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "image_token_index": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "tie_word_embeddings": config.tied_embeddings,
        "text_config": {
            "model_type": "mistral" if config.yarn is None else hf_rope.SCALED,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": config.dim,
            "num_hidden_layers": config.n_layers,
            "head_dim": config.head_dim,
            "intermediate_size": config.hidden_dim,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "rms_norm_eps": config.norm_eps,
            **hf_rope.keys_of(config),
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len,
            "sliding_window": None,
            "hidden_act": "silu",
            "tie_word_embeddings": config.tied_embeddings,
        },
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": vision.hidden_size,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            **hf_rope.plain_keys(vision.rope_theta, "axial"),
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": vision.num_channels,
            "head_dim": vision.head_dim,
            "hidden_act": "silu",
        },
    } | extra


def _check_settings(
    hf: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], merged: bool, where: str
) -> None:
    """Refuse settings that Pixtral's models do not have, since this code does not implement them."""
    accepted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("vision_config.model_type", vision["model_type"], ("pixtral",)),
        ("vision_config.hidden_act", vision["hidden_act"], VISION_ACTIVATIONS),
        ("text_config.model_type", text["model_type"], ("mistral", hf_rope.SCALED) if merged else ("mistral",)),
        ("text_config.hidden_act", text["hidden_act"], ("silu",)),
        ("projector_hidden_act", hf.get("projector_hidden_act", "gelu"), ("gelu",)),
        ("vision_feature_layer", hf.get("vision_feature_layer", -1), (-1,)),
        ("vision_feature_select_strategy", hf.get("vision_feature_select_strategy", "full"), ("full",)),
    ]
    window = text["sliding_window"]
    if window is not None:
        longest = _integer(text, "max_position_embeddings", where)
        accepted.append(
            ("text_config.sliding_window", window, (None, max(longest, _integer(text, "sliding_window", where))))
        )
    if merged:
        accepted.append(("text_config.rms_norm_eps", text.get("rms_norm_eps"), (VISION_NORM_EPS,)))
        if hf.get("spatial_merge_size", 2) == 1:
            accepted.append(("spatial_merge_size", 1, (2,)))
    if vision.get("head_dim") is not None:
        width = _integer(vision, "hidden_size", where) // _integer(vision, "num_attention_heads", where)
        accepted.append(("vision_config.head_dim", vision["head_dim"], (width,)))
    for name, value, values in accepted:
        if value not in values:
            raise CheckpointError(
                f"{where}: {name} is {value!r}, and a model of the Pixtral family has "
                f"{' or '.join(map(repr, values))}; use a checkpoint of that family."
            )


def _text_defaults(text: Mapping[str, Any]) -> dict[str, Any]:
    return MINISTRAL_DEFAULTS if text.get("model_type") == hf_rope.SCALED else TEXT_DEFAULTS


def _integer(section: Mapping[str, Any], key: str, where: str) -> int:
    value = _need(section, key, where)
    if not isinstance(value, int) or value <= 0:
        raise CheckpointError(f"{where}: {key} is {value!r} and must be a positive integer; download the file again.")
    return value


def _need(section: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in section:
        raise CheckpointError(f"{where}: the key {key!r} is missing; download the file again.")
    return section[key]


def _side(value: Any) -> Any:
    """Return a square's side, which some saves write as [side, side]."""
    return value[0] if isinstance(value, list) and value and all(side == value[0] for side in value) else value


def _break_ids(folder: Path, vocab_size: int) -> tuple[int, int]:
    """Read the ids of [IMG_BREAK] and [IMG_END], missing in config.json, from the first file that has both."""
    for file, key, id_key, text_key in (
        ("tekken.json", "special_tokens", "rank", "token_str"),
        ("tokenizer_config.json", "added_tokens_decoder", "id", "content"),
        ("tokenizer.json", "added_tokens", "id", "content"),
    ):
        if not (folder / file).is_file():
            continue
        listed = read_json(folder / file).get(key) or []
        try:
            if isinstance(listed, dict):
                listed = [{"id": int(number), **token} for number, token in listed.items()]
            ids = {token.get(text_key): token.get(id_key) for token in listed}
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / file}: {key} is not a list of tokens; download the file again."
            ) from error
        if isinstance(break_id := ids.get("[IMG_BREAK]"), int) and isinstance(end_id := ids.get("[IMG_END]"), int):
            return break_id, end_id
    return SENTENCEPIECE_IDS if vocab_size == SENTENCEPIECE_VOCAB_SIZE else TEKKEN_IDS
