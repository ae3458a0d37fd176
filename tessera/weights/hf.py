"""Hugging Face's layout: config.json and sharded safetensors, as LLaVA (Pixtral) or Mistral3.

Besides other names it pairs rotary channels (i, i + half) where the official layout pairs neighbours,
so the rows of every query and key projection are permuted within each head, in the decoder and in
the vision tower. Values and outputs are the same. Both directions are one table here.
Source: transformers' LlavaConfig, Mistral3Config, PixtralVisionConfig and MistralConfig, as 4 and 5 save them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.model.config import MAX_CONTEXT_TOKENS, ModelConfig
from tessera.model.vision import VISION_NORM_EPS
from tessera.weights.detect import read_json, weight_files
from tessera.weights.stream import Source, StoredTensor, bare_name, check_sources, empty_model, stored_tensors

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
    name = bare_name(name)
    if name.startswith("lm_head."):
        return "language_model." + name
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    return name.removeprefix("model.")


def from_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from halves to neighbours, within each head.

    Example: a head of 4 rows [a0 a1 b0 b1], pairs (a0, b0) and (a1, b1), becomes [a0 b0 a1 b1].
    """
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def to_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `from_hf_rows`."""
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def permuted_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads' rows are permuted in this tensor (official name); None for all others."""
    if not name.endswith((".wq.weight", ".wk.weight")):
        return None
    if name.startswith("vision_encoder."):
        return config.vision_encoder.num_attention_heads
    return config.n_heads if name.endswith(".wq.weight") else config.n_kv_heads


def official_sources(folder: Path, config: ModelConfig) -> dict[str, Source]:
    """Where each of the model's tensors comes from, from the headers only; raises CheckpointError."""
    return plain_sources(classic_tensors(folder), config, folder)


def classic_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder by their classic names, a tied head's too; raises CheckpointError for a name twice."""
    stored: dict[str, StoredTensor] = {}
    for name, tensor in stored_tensors(weight_files(folder, "hf")).items():
        if (twin := stored.setdefault(classic_name(name), tensor)) is not tensor:
            raise CheckpointError(
                f"{folder} has one tensor under two names, {twin.name!r} in {twin.file.name} and {name!r} in "
                f"{tensor.file.name}; remove the files of another save from the folder."
            )
    head, embeddings = OUTER_NAMES["output.weight"], OUTER_NAMES["tok_embeddings.weight"]
    if head not in stored and embeddings in stored and _is_tied(read_json(folder / "config.json")):
        stored[head] = stored[embeddings]
    return stored


def plain_sources(
    stored: Mapping[str, StoredTensor], config: ModelConfig, folder: Path, quantized: Collection[str] = ()
) -> dict[str, Source]:
    """Where the parameters come from that are not among `quantized`; raises CheckpointError."""
    official = {to_hf_name(name): name for name, _ in empty_model(config).named_parameters()}
    # A name that the table does not know goes on as it is, and is refused with its file's name.
    names = {hf: official.get(hf, hf) for hf in stored}
    sources = {names[hf]: _source(names[hf], tensor, config) for hf, tensor in stored.items()}
    return check_sources(sources, config, folder, quantized)


def _source(name: str, tensor: StoredTensor, config: ModelConfig) -> Source:
    heads = permuted_heads(name, config)
    return Source(tensor, None if heads is None else partial(from_hf_rows, heads=heads))


def read_config(folder: Path) -> ModelConfig:
    """The model's config from config.json and the tokenizer's side files.

    Raises CheckpointError for a model outside the Pixtral family, and for settings that would change
    what is computed.
    """
    where = str(folder / "config.json")
    hf = read_json(folder / "config.json")
    kind, text, vision = hf.get("model_type"), hf.get("text_config"), hf.get("vision_config")
    if str(kind) not in ARCHITECTURES or not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise CheckpointError(
            f"{where}: model_type {kind!r} is not of the Pixtral family; use a model of type "
            f"{' or '.join(ARCHITECTURES)} with a text_config and a vision_config."
        )
    text, vision = {**TEXT_DEFAULTS, **text}, {**VISION_DEFAULTS, **vision}
    merged = kind == "mistral3"
    _check_settings(hf, text, vision, merged, where)
    width, heads = _integer(text, "hidden_size", where), _integer(text, "num_attention_heads", where)
    breaks = _break_ids(folder, _need(text, "vocab_size", where))
    params = {
        "dim": width,
        "n_layers": _need(text, "num_hidden_layers", where),
        "head_dim": text.get("head_dim") or width // heads,
        "hidden_dim": text["intermediate_size"],
        "n_heads": heads,
        "n_kv_heads": text["num_key_value_heads"],
        "rope_theta": _theta(text, where),
        "norm_eps": _need(text, "rms_norm_eps", where),
        "vocab_size": text["vocab_size"],
        # 1,024,000 in Pixtral 12B's file is a mistake: it was trained for 131,072.
        "max_seq_len": min(_integer(text, "max_position_embeddings", where), MAX_CONTEXT_TOKENS),
        "vision_encoder": {
            "hidden_size": vision["hidden_size"],
            "image_size": _side(vision["image_size"]),
            "patch_size": _side(vision["patch_size"]),
            "rope_theta": _theta(vision, where),
            "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "num_channels": vision["num_channels"],
            "image_token_id": hf.get("image_token_index", hf.get("image_token_id", 10)),
            "image_break_token_id": breaks[0],
            "image_end_token_id": breaks[1],
            "adapter_bias": hf.get("multimodal_projector_bias", not merged),
            "mm_projector_id": "patch_merge" if merged else "",
            "spatial_merge_size": hf.get("spatial_merge_size", 2) if merged else 1,
            "add_pre_mm_projector_layer_norm": merged,
        },
    }
    return ModelConfig.from_params(params, where)


def write_config(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json that transformers reads as the same model.

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
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "mistral",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": config.dim,
            "num_hidden_layers": config.n_layers,
            "head_dim": config.head_dim,
            "intermediate_size": config.hidden_dim,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "rms_norm_eps": config.norm_eps,
            **_theta_keys(config.rope_theta, "default"),
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
            **_theta_keys(vision.rope_theta, "axial"),
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": vision.num_channels,
            "head_dim": vision.head_dim,
            "hidden_act": "silu",
        },
    } | extra


def _is_tied(hf: Mapping[str, Any]) -> bool:
    text = hf["text_config"]
    default = hf["model_type"] == "mistral3"  # Mistral3Config's own default
    return bool(hf.get("tie_word_embeddings", default) or text.get("tie_word_embeddings", False))


def _check_settings(
    hf: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], merged: bool, where: str
) -> None:
    """Refuse what Pixtral's models do not have, because this code does not compute it."""
    accepted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("vision_config.model_type", vision["model_type"], ("pixtral",)),
        ("vision_config.hidden_act", vision["hidden_act"], VISION_ACTIVATIONS),
        ("text_config.model_type", text["model_type"], ("mistral",)),
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
    """Some saves give a square's side as [side, side]."""
    return value[0] if isinstance(value, list) and value and all(side == value[0] for side in value) else value


def _theta(section: Mapping[str, Any], where: str) -> Any:
    """The rotary base: in the section itself until transformers 4, among rope_parameters since 5."""
    nested = section.get("rope_parameters") or section.get("rope_scaling") or {}
    nested = nested.get("full_attention", nested) if isinstance(nested, Mapping) else nested
    if not isinstance(nested, Mapping):
        raise CheckpointError(f"{where}: the rotary settings are {nested!r}, no object; download the file again.")
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind not in ("default", "axial"):
        raise CheckpointError(f"{where}: the rotary scaling {kind!r} is not of the Pixtral family; use a model of it.")
    return nested["rope_theta"] if "rope_theta" in nested else _need(section, "rope_theta", where)


def _theta_keys(theta: float, kind: str) -> dict[str, Any]:
    """The rotary base as transformers 4 reads it, and as 5 does."""
    return {"rope_theta": theta, "rope_parameters": {"rope_theta": theta, "rope_type": kind}}


def _break_ids(folder: Path, vocab_size: int) -> tuple[int, int]:
    """The ids of [IMG_BREAK] and [IMG_END], which config.json does not have, from the first file that has both."""
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
            raise CheckpointError(f"{folder / file}: {key} is no list of tokens; download the file again.") from error
        if isinstance(break_id := ids.get("[IMG_BREAK]"), int) and isinstance(end_id := ids.get("[IMG_END]"), int):
            return break_id, end_id
    return SENTENCEPIECE_IDS if vocab_size == SENTENCEPIECE_VOCAB_SIZE else TEKKEN_IDS
