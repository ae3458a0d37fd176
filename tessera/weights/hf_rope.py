"""The decoder's rotary settings in config.json: the base, and Ministral 3's YaRN and query scaling.

Source: transformers' Ministral3Config and its computation of YaRN's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig

SCALED = "ministral3"  # the text_config.model_type whose rotation is scaled
YARN_KEYS = {"beta_fast": ("beta", 32.0), "beta_slow": ("alpha", 1.0)}
# Keys that decide nothing beside the others, or that are read below.
KNOWN = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "max_position_embeddings",
    "mscale", "mscale_all_dim", "attention_factor", "llama_4_scaling_beta", "truncate", "partial_rotary_factor",
    *YARN_KEYS,
}  # fmt: skip
ONLY = {"truncate": (True, None), "partial_rotary_factor": (1, None), "attention_factor": (1, None)}


def theta(section: Mapping[str, Any], where: str) -> Any:
    """Return the rotary base: in the section itself up to transformers 4, in rope_parameters since 5."""
    nested = _nested(section, where)
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind not in (("yarn",) if section.get("model_type") == SCALED else ("default", "axial")):
        raise CheckpointError(f"{where}: the rotary scaling {kind!r} is not of the Pixtral family; use a model of it.")
    if "rope_theta" not in nested and "rope_theta" not in section:
        raise CheckpointError(f"{where}: the key 'rope_theta' is missing; download the file again.")
    return nested.get("rope_theta", section.get("rope_theta"))


def scaling(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a Ministral 3 adds to params.json: yarn and llama_4_scaling; nothing for any other model."""
    if section.get("model_type") != SCALED:
        return {}
    nested = _nested(section, where)
    if unknown := sorted(set(nested) - KNOWN):
        raise CheckpointError(
            f"{where}: rope_parameters has the unknown key {unknown[0]!r}, which may change the computation; use a "
            "model of the Pixtral family."
        )
    for key, values in ONLY.items():
        if nested.get(key) not in values:
            raise CheckpointError(
                f"{where}: rope_parameters.{key} is {nested[key]!r} and may be {values[0]!r} only; use a model of the "
                "Pixtral family."
            )
    original = nested.get("original_max_position_embeddings")
    yarn = {"factor": nested.get("factor"), "original_max_position_embeddings": original}
    yarn |= {ours: nested.get(theirs) or default for theirs, (ours, default) in YARN_KEYS.items()}
    yarn["apply_scale"] = nested.get("attention_factor") is None and _is_scaled(nested, where)
    beta = nested.get("llama_4_scaling_beta") or None
    return {
        "yarn": yarn,
        "llama_4_scaling": beta and {"beta": beta, "original_max_position_embeddings": original},
    }


def keys_of(config: ModelConfig) -> dict[str, Any]:
    """Return the rotary keys of a text_config; raises CheckpointError for what its class cannot have."""
    yarn, scaled = config.yarn, config.llama_4_scaling
    if yarn is None and scaled is None:
        return plain_keys(config.rope_theta, "default")
    original = None if yarn is None else yarn.original_max_position_embeddings
    if yarn is None or (scaled and scaled.original_max_position_embeddings != original):
        raise CheckpointError(
            "Hugging Face's layout knows query scaling only with YaRN and of the same original context; this model has "
            f"yarn {yarn and asdict(yarn)} and llama_4_scaling {scaled and asdict(scaled)}: keep it in the mistral "
            "layout."
        )
    values = plain_keys(config.rope_theta, "yarn")
    values["rope_parameters"] |= {
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": original,
        "beta_fast": yarn.beta,
        "beta_slow": yarn.alpha,
        "mscale": 1.0,
        "mscale_all_dim": 0.0 if yarn.apply_scale else 1.0,
        "llama_4_scaling_beta": 0.0 if scaled is None else scaled.beta,
    }
    return values


def plain_keys(base: float, kind: str) -> dict[str, Any]:
    """Return the keys of the rotary base for both transformers 4 and 5."""
    return {"rope_theta": base, "rope_parameters": {"rope_theta": base, "rope_type": kind}}


def _nested(section: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    nested = section.get("rope_parameters") or section.get("rope_scaling") or {}
    nested = nested.get("full_attention", nested) if isinstance(nested, Mapping) else nested
    if not isinstance(nested, Mapping):
        raise CheckpointError(
            f"{where}: the rotary settings are {nested!r} and must be an object; download the file again."
        )
    return nested


def _is_scaled(nested: Mapping[str, Any], where: str) -> bool:
    """Return True if cosines and sines are scaled by YaRN's temperature: it cancels if mscale is mscale_all_dim."""
    over, under = nested.get("mscale"), nested.get("mscale_all_dim")
    if over and under and over != under:
        raise CheckpointError(
            f"{where}: rope_parameters has mscale {over!r} and mscale_all_dim {under!r}, and they must be the same or "
            "one of them 0; use a model of the Pixtral family."
        )
    return not (over and under)
