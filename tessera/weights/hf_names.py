"""Converts tensor names and row order between Hugging Face's layout and the official one, in both directions.

Hugging Face pairs rotary channels (i, i + half), the official layout neighbours, so the rows of every query
and key projection are permuted within each head, in the decoder and in the vision tower. Values and outputs
are the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig
from tessera.weights.detect import read_json, weight_files
from tessera.weights.fill import bare_name, check_sources, empty_model
from tessera.weights.safetensors import StoredTensor, stored_tensors
from tessera.weights.source import Source

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
    """Return the classic Hugging Face name of an official name; raises KeyError for any other."""
    if match := VISION_LAYER.fullmatch(name):
        return f"vision_tower.transformer.layers.{match[1]}.{VISION_NAMES[match[2]]}"
    if match := DECODER_LAYER.fullmatch(name):
        return f"language_model.model.layers.{match[1]}.{DECODER_NAMES[match[2]]}"
    return OUTER_NAMES[name]


def classic_name(name: str) -> str:
    """Return the classic form of a newer save's name, which puts `model.` first and the head outside.

    Example: "model.language_model.norm.weight" becomes "language_model.model.norm.weight".
    """
    name = bare_name(name)
    if name.startswith("lm_head."):
        return "language_model." + name
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    return name.removeprefix("model.")


def from_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """Reorder rows of a query or key projection from halves to neighbours, within each head.

    Example: a head of 4 rows [a0 a1 b0 b1], pairs (a0, b0) and (a1, b1), becomes [a0 b0 a1 b1].
    """
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def to_hf_rows(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `from_hf_rows`."""
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def permuted_heads(name: str, config: ModelConfig) -> int | None:
    """Return the number of heads whose rows are permuted in this tensor (official name); None for all others."""
    if not name.endswith((".wq.weight", ".wk.weight")):
        return None
    if name.startswith("vision_encoder."):
        return config.vision_encoder.num_attention_heads
    return config.n_heads if name.endswith(".wq.weight") else config.n_kv_heads


def classic_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a folder by classic name, even a tied head; raises CheckpointError for a duplicate name."""
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


def has_tied_head(tensors: Mapping[str, StoredTensor]) -> bool:
    """Return True if the head of `classic_tensors` is the embeddings' own tensor."""
    return tensors.get(OUTER_NAMES["output.weight"]) is tensors.get(OUTER_NAMES["tok_embeddings.weight"])


def plain_sources(
    stored: Mapping[str, StoredTensor], config: ModelConfig, folder: Path, quantized: Collection[str] = ()
) -> dict[str, Source]:
    """Return the sources of all parameters not in `quantized`; raises CheckpointError."""
    official = {to_hf_name(name): name for name, _ in empty_model(config).named_parameters()}
    # A name not in the table is kept, and is refused later with its file's name.
    names = {hf: official.get(hf, hf) for hf in stored}
    sources = {names[hf]: _source(names[hf], tensor, config) for hf, tensor in stored.items()}
    return check_sources(sources, config, folder, quantized)


def _is_tied(hf: Mapping[str, Any]) -> bool:
    text = hf["text_config"]
    default = hf["model_type"] == "mistral3"  # Mistral3Config's own default
    return bool(hf.get("tie_word_embeddings", default) or text.get("tie_word_embeddings", False))


def _source(name: str, tensor: StoredTensor, config: ModelConfig) -> Source:
    heads = permuted_heads(name, config)
    return Source(tensor, None if heads is None else partial(from_hf_rows, heads=heads))
