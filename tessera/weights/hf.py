"""Hugging Face's layout: config.json and sharded safetensors, as LLaVA (Pixtral) or Mistral3.

Besides other names it pairs rotary channels (i, i + half) where the official layout pairs neighbours,
so the rows of every query and key projection are permuted within each head, in the decoder and in
the vision tower. Values and outputs are the same. Both directions are one table here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.errors import CheckpointError
from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig, VisionConfig
from tessera.weights.detect import read_json, weight_files
from tessera.weights.stream import StoredTensor, stored_tensors

DEFAULT_HEADS = 32  # of the text config where the key is absent, as in Pixtral 12B's own upload
DEFAULT_THETA = 10_000.0
ARCHITECTURES = {"llava": "LlavaForConditionalGeneration", "mistral3": "Mistral3ForConditionalGeneration"}
# Early uploads say gelu for the vision tower, and so does the class's default; the weights want SiLU.
VISION_ACTIVATIONS = ("silu", "gelu")

OUTER_NAMES = {
    "tok_embeddings.weight": "language_model.model.embed_tokens.weight",
    "norm.weight": "language_model.model.norm.weight",
    "output.weight": "language_model.lm_head.weight",
    "vision_encoder.patch_conv.weight": "vision_tower.patch_conv.weight",
    "vision_encoder.ln_pre.weight": "vision_tower.ln_pre.weight",
    "vision_language_adapter.w_in.weight": "multi_modal_projector.linear_1.weight",
    "vision_language_adapter.w_in.bias": "multi_modal_projector.linear_1.bias",
    "vision_language_adapter.w_out.weight": "multi_modal_projector.linear_2.weight",
    "vision_language_adapter.w_out.bias": "multi_modal_projector.linear_2.bias",
    "pre_mm_projector_norm.weight": "multi_modal_projector.norm.weight",
    "patch_merger.merging_layer.weight": "multi_modal_projector.patch_merger.merging_layer.weight",
}
FEED_FORWARD = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
ATTENTION = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
DECODER_NAMES = (
    {f"attention.{ours}.weight": f"self_attn.{theirs}.weight" for ours, theirs in ATTENTION.items()}
    | {f"feed_forward.{ours}.weight": f"mlp.{theirs}.weight" for ours, theirs in FEED_FORWARD.items()}
    | {"attention_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight"}
)
VISION_NAMES = (
    {f"attention.{ours}.weight": f"attention.{theirs}.weight" for ours, theirs in ATTENTION.items()}
    | {f"feed_forward.{ours}.weight": f"feed_forward.{theirs}.weight" for ours, theirs in FEED_FORWARD.items()}
    | {"attention_norm.weight": "attention_norm.weight", "ffn_norm.weight": "ffn_norm.weight"}
)
DECODER_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
VISION_LAYER = re.compile(r"vision_encoder\.transformer\.layers\.(\d+)\.(.+)")


def to_hf_name(name: str) -> str:
    """The classic Hugging Face name of an official name; raises KeyError for any other."""
    if match := VISION_LAYER.fullmatch(name):
        return f"vision_tower.transformer.layers.{match[1]}.{VISION_NAMES[match[2]]}"
    if match := DECODER_LAYER.fullmatch(name):
        return f"language_model.model.layers.{match[1]}.{DECODER_NAMES[match[2]]}"
    return OUTER_NAMES[name]


def classic_name(name: str) -> str:
    """Newer saves put `model.` first and the head outside: back to the classic form.

    Example: "model.language_model.norm.weight" becomes "language_model.model.norm.weight".
    """
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    return name.removeprefix("model.")


def from_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from halves to neighbours, within each head.

    Example: a head of 4 rows [a0 a1 b0 b1], pairs (a0, b0) and (a1, b1), becomes [a0 b0 a1 b1].
    """
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)


def to_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `from_hf_rows`."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)


def permuted_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads' rows are permuted in this tensor (official name); None for all others."""
    kind = name.rsplit(".", 2)[-2]
    if kind not in ("wq", "wk"):
        return None
    if name.startswith("vision_encoder."):
        return config.vision_encoder.num_attention_heads
    return config.n_heads if kind == "wq" else config.n_kv_heads


def official_tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[str, StoredTensor, Tensor]]:
    """Each tensor under its official name and with official rows, read when it is asked for."""
    stored = {classic_name(name): tensor for name, tensor in stored_tensors(weight_files(folder, "hf")).items()}
    head, embeddings = OUTER_NAMES["output.weight"], OUTER_NAMES["tok_embeddings.weight"]
    if head not in stored and embeddings in stored and read_json(folder / "config.json").get("tie_word_embeddings"):
        yield "output.weight", stored[embeddings], stored[embeddings].read()
    official = {hf: name for name in official_names(config) for hf in [to_hf_name(name)]}
    for hf_name, tensor in stored.items():
        # A name that the table does not know goes on as it is, and is refused with its file's name.
        name = official.get(hf_name, hf_name)
        heads = permuted_heads(name, config) if name != hf_name else None
        value = tensor.read()
        yield name, tensor, value if heads is None else from_hf_rows(value, heads)


def official_names(config: ModelConfig) -> list[str]:
    """All official tensor names of a model with this config, in the order of its modules."""
    import torch

    from tessera.model.pixtral import Pixtral

    with torch.device("meta"):
        return [name for name, _ in Pixtral(config).named_parameters()]


def read_config(folder: Path) -> ModelConfig:
    """The model's config from config.json and the tokenizer's side files; raises CheckpointError."""
    hf = read_json(folder / "config.json")
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} is not of the Pixtral family; known are "
            f"{', '.join(ARCHITECTURES)}."
        )
    where = str(folder / "config.json")
    text, vision = (_section(hf, name, where) for name in ("text_config", "vision_config"))
    activation = vision.get("hidden_act", "gelu")
    if activation not in VISION_ACTIVATIONS or hf.get("projector_hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{where}: the activations {activation!r} and {hf.get('projector_hidden_act')!r} are unknown.")
    heads = int(text.get("num_attention_heads", DEFAULT_HEADS))
    breaks = _break_ids(folder)
    merged = kind == "mistral3"
    return ModelConfig(
        dim=_need(text, "hidden_size", where),
        n_layers=_need(text, "num_hidden_layers", where),
        head_dim=int(text.get("head_dim") or _need(text, "hidden_size", where) // heads),
        hidden_dim=_need(text, "intermediate_size", where),
        n_heads=heads,
        n_kv_heads=int(text.get("num_key_value_heads", 8)),
        rope_theta=_theta(text),
        norm_eps=float(text.get("rms_norm_eps", 1e-6)),
        vocab_size=int(text.get("vocab_size", 32_000)),
        max_seq_len=min(int(text.get("max_position_embeddings", MAX_CONTEXT_TOKENS)), MAX_CONTEXT_TOKENS),
        vision_encoder=VisionConfig(
            hidden_size=int(vision.get("hidden_size", 1024)),
            image_size=int(vision.get("image_size", 1024)),
            patch_size=int(vision.get("patch_size", 16)),
            rope_theta=_theta(vision),
            intermediate_size=int(vision.get("intermediate_size", 4096)),
            num_hidden_layers=int(vision.get("num_hidden_layers", 24)),
            num_attention_heads=int(vision.get("num_attention_heads", 16)),
            num_channels=int(vision.get("num_channels", 3)),
            image_token_id=int(hf.get("image_token_index", hf.get("image_token_id", 10))),
            image_break_token_id=breaks[0],
            image_end_token_id=breaks[1],
            adapter_bias=bool(hf.get("multimodal_projector_bias", not merged)),
            mm_projector_id="patch_merge" if merged else "",
            spatial_merge_size=int(hf.get("spatial_merge_size", 2)) if merged else 1,
            add_pre_mm_projector_layer_norm=merged,
        ),
    )


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of config.json that transformers reads as the same model."""
    vision = config.vision_encoder
    merged = vision.spatial_merge_size > 1
    if merged != vision.add_pre_mm_projector_layer_norm:
        raise CheckpointError("Hugging Face's layout knows the merge and its norm only together; this model has one.")
    kind = "mistral3" if merged else "llava"
    extra = {"spatial_merge_size": vision.spatial_merge_size} if merged else {"vision_feature_select_strategy": "full"}
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "dtype": dtype,
        "image_token_index": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "mistral",
            "hidden_size": config.dim,
            "num_hidden_layers": config.n_layers,
            "head_dim": config.head_dim,
            "intermediate_size": config.hidden_dim,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len,
            "sliding_window": None,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": vision.hidden_size,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "rope_theta": vision.rope_theta,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": vision.num_channels,
            "head_dim": vision.head_dim,
            "hidden_act": "silu",
        },
    } | extra


def _section(hf: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = hf.get(name)
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{where} has no {name}; it belongs to another kind of model.")
    return section


def _need(section: Mapping[str, Any], key: str, where: str) -> int:
    if key not in section:
        raise CheckpointError(f"{where}: the key {key!r} is missing from text_config; download the file again.")
    return int(section[key])


def _theta(section: Mapping[str, Any]) -> float:
    """The rotary base, at the top in older configs and among rope_parameters in newer ones."""
    nested = section.get("rope_parameters") or {}
    if nested.get("rope_type", "default") != "default":
        raise CheckpointError(f"the rotary embedding {nested['rope_type']!r} is not of the Pixtral family.")
    return float(section.get("rope_theta") or nested.get("rope_theta") or DEFAULT_THETA)


def _break_ids(folder: Path) -> tuple[int, int]:
    """The ids of [IMG_BREAK] and [IMG_END], which config.json does not have, from the tokenizer's file."""
    if (folder / "tokenizer.json").is_file():
        added = read_json(folder / "tokenizer.json").get("added_tokens") or []
        ids = {token["content"]: int(token["id"]) for token in added if "content" in token and "id" in token}
        if "[IMG_BREAK]" in ids and "[IMG_END]" in ids:
            return ids["[IMG_BREAK]"], ids["[IMG_END]"]
    return 12, 13
