"""Names of adapters' tensors: from every spelling of Hugging Face's layout, and of llama.cpp's, to official linears.

peft names a tensor `base_model.model.` + the module's path + `.lora_A.weight`. The path is that of transformers 5
(`model.language_model.layers...`), of older versions, which is that of the base's files
(`language_model.model.layers...`), or of the text model alone (`model.layers...`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig
from tessera.weights.fill import linear_shapes
from tessera.weights.gguf.names import to_gguf_name
from tessera.weights.hf_names import classic_name, from_hf_rows, permuted_heads, to_hf_name, to_hf_rows

# A name in memory has the adapter's own name before `.weight`; files of some trainers keep it.
MATRIX = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
# The base's own weights, which peft saves beside an adapted head, whole and unchanged.
COPIED = re.compile(r".*\b(?:lm_head\.base_layer|lm_head|embed_tokens\.base_layer|embed_tokens)\.weight")
GGUF_MATRIX = re.compile(r"(.+)\.weight\.lora_([ab])")
PREFIX = "base_model.model."
CLASSIC_TEXT = "language_model.model."


def hf_linears(config: ModelConfig) -> dict[str, str]:
    """Return the official name of each linear by its classic path in Hugging Face's layout."""
    return {to_hf_name(f"{name}.weight").removesuffix(".weight"): name for name in linear_shapes(config)}


def gguf_linears(config: ModelConfig) -> dict[str, str]:
    """Return the official name of each linear by its name in llama.cpp."""
    return {to_gguf_name(f"{name}.weight").removesuffix(".weight"): name for name in linear_shapes(config)}


def classic_path(path: str) -> str:
    """Return the classic path of a linear, from a path of transformers 5, of older versions or of a text model."""
    classic = classic_name(f"{path}.weight").removesuffix(".weight")
    return CLASSIC_TEXT + classic if classic.startswith("layers.") else classic


def live_path(name: str) -> str:
    """Return the path of an official linear in a model of transformers 5. Example: "model.vision_tower...q_proj"."""
    classic = to_hf_name(f"{name}.weight").removesuffix(".weight")
    if classic.startswith(CLASSIC_TEXT):
        return "model.language_model." + classic.removeprefix(CLASSIC_TEXT)
    return classic.removeprefix("language_model.") if name == "output" else "model." + classic


def from_hf(name: str, b_NR: Tensor, config: ModelConfig) -> Tensor:
    """Return B with the rows in the official order: those of queries and keys are permuted, A's columns never.

    Rows that are no whole pairs for each head stay as they are: a shape that `LoraAdapter.of` refuses.
    """
    heads = permuted_heads(f"{name}.weight", config)
    return b_NR if heads is None or len(b_NR) % (2 * heads) else from_hf_rows(b_NR, heads)


def to_hf(name: str, b_NR: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `from_hf`."""
    heads = permuted_heads(f"{name}.weight", config)
    return b_NR if heads is None else to_hf_rows(b_NR, heads)


def refuse_unmatched(file: Path, unmatched: Iterable[str], total: int) -> None:
    """Raise CheckpointError if a tensor's name matches nothing: it would be dropped without a word."""
    names = list(unmatched)
    if not names:
        return
    first = names[0]
    if ".lora_" not in first:
        why = "is no LoRA matrix but a weight saved whole (modules_to_save, DoRA or a bias); train without these"
    else:
        why = "matches no linear of this model; use an adapter of this model"
    raise CheckpointError(f"{file}: {first!r}, one of {len(names)} such tensors of {total}, {why}.")
