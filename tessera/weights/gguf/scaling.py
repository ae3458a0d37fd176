"""The rotation's scaling in GGUF files: Ministral 3's YaRN and scaled queries, llama.cpp's architecture `mistral3`.

llama.cpp scales queries from YaRN's original context on, and cancels YaRN's temperature if the multiplier is 1.
Its converter now gives Mistral Small 3.1 that architecture too, without any of these keys.
Sources: conversion/mistral.py and conversion/mistral3.py, and src/models/mistral3.cpp for what is read.
"""

from __future__ import annotations

from typing import Any

from tessera.model.config import ModelConfig
from tessera.weights.gguf.keys import Keys

PLAIN_ARCHITECTURE, SCALED_ARCHITECTURE = "llama", "mistral3"
TEXT_ARCHITECTURES = (PLAIN_ARCHITECTURE, SCALED_ARCHITECTURE)
YARN = "yarn"
BETA_FAST, BETA_SLOW = 32.0, 1.0  # llama.cpp's, of files without these keys
CANCELLED = 1.0  # the multiplier with which llama.cpp leaves YaRN's temperature out, as transformers does


def architecture_of(config: ModelConfig) -> str:
    """Return llama.cpp's architecture of a model."""
    return PLAIN_ARCHITECTURE if config.yarn is None else SCALED_ARCHITECTURE


def read_scaling(keys: Keys, architecture: str) -> dict[str, Any]:
    """Return params.json's sections `yarn` and `llama_4_scaling` if the file has them; raises CheckpointError."""
    if architecture != SCALED_ARCHITECTURE or not keys.says("rope.scaling.type", YARN):
        keys.check("rope.scaling.type", "none")
        return {}
    original = keys.integer("rope.scaling.original_context_length")
    keys.check("rope.scaling.yarn_ext_factor", 1.0)
    keys.check("rope.scaling.yarn_attn_factor", 1.0)
    keys.need("rope.scaling.yarn_log_multiplier", CANCELLED)
    sections: dict[str, Any] = {
        "yarn": {
            "factor": keys.number("rope.scaling.factor", 1.0),
            "original_max_position_embeddings": original,
            "beta": keys.number("rope.scaling.yarn_beta_fast", BETA_FAST),
            "alpha": keys.number("rope.scaling.yarn_beta_slow", BETA_SLOW),
        }
    }
    if keys.has("attention.temperature_scale"):
        beta = keys.number("attention.temperature_scale")
        sections["llama_4_scaling"] = {"original_max_position_embeddings": original, "beta": beta}
    return sections


def scaling_values(config: ModelConfig) -> dict[str, int | float | str]:
    """Return the keys that `read_scaling` reads, without their section."""
    if config.yarn is None:
        return {}
    values: dict[str, int | float | str] = {
        "rope.scaling.type": YARN,
        "rope.scaling.factor": config.yarn.factor,
        "rope.scaling.original_context_length": config.yarn.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": config.yarn.beta,
        "rope.scaling.yarn_beta_slow": config.yarn.alpha,
        "rope.scaling.yarn_log_multiplier": CANCELLED,
    }
    if config.llama_4_scaling is not None:
        values["attention.temperature_scale"] = config.llama_4_scaling.beta
    return values


def fixed_settings(config: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Return settings that the keys cannot express: what each is, its value, and the only one that can be written."""
    yarn, scaling = config.yarn, config.llama_4_scaling
    fixed: list[tuple[str, Any, Any]] = []
    if yarn is not None:
        fixed.append(("yarn's apply_scale", yarn.apply_scale, False))
    if scaling is not None:
        original = None if yarn is None else yarn.original_max_position_embeddings
        fixed.append(("llama_4_scaling's original context", scaling.original_max_position_embeddings, original))
    return fixed
