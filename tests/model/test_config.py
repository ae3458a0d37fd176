"""params.json: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig, trained_context

# Of Ministral 3.
YARN = {"factor": 16, "original_max_position_embeddings": 16_384, "beta": 32, "alpha": 1, "apply_scale": False}
PIXTRAL_12B: dict[str, Any] = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "rope_theta": 1e9, "norm_eps": 1e-5, "vocab_size": 131072,
    "vision_encoder": {
        "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 10000.0,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_token_id": 10,
    },
}  # fmt: skip


def test_the_published_file_is_read_and_written_back() -> None:
    config = ModelConfig.from_params(PIXTRAL_12B | {"rope_scaling": None, "tied_embeddings": False})
    assert (config.max_seq_len, config.vision_encoder.head_dim, config.vision_encoder.adapter_bias) == (
        131072,
        64,
        True,
    )
    assert ModelConfig.from_params(config.to_params()) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_layer": 40}, "the nearest known key is 'n_layers'"),
        ({"rope_scaling": {"factor": 8}}, "unknown key 'rope_scaling'"),
        ({"tied_embeddings": 1}, "tied_embeddings is 1 and should be of type bool"),
        ({"yarn": YARN | {"mscale": 1.0}}, "params.json, yarn: unknown key 'mscale'"),
        ({"yarn": {"factor": 16}}, "yarn: the key 'original_max_position_embeddings' is missing"),
        ({"yarn": YARN | {"factor": 0.5}}, "the factor must be at least 1"),
        ({"yarn": YARN | {"beta": 1}}, "beta more than alpha"),
        ({"yarn": 16}, "yarn is 16 and should be an object"),
        ({"llama_4_scaling": {"beta": 0.1}}, "llama_4_scaling: the key 'original_max_position_embeddings' is missing"),
        ({"vision_encoder": None}, "text-only model"),
        ({"n_kv_heads": 7}, "n_heads 32 is not a multiple of n_kv_heads 7"),
        ({"dim": "5120"}, "should be of type int"),
        ({"n_layers": 0}, "must be more than 0"),
    ],
)
def test_what_would_change_the_computation_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        ModelConfig.from_params(PIXTRAL_12B | changes)


def test_yarn_gives_the_context_that_the_file_does_not() -> None:
    config = ModelConfig.from_params(PIXTRAL_12B | {"yarn": YARN})
    assert (config.max_seq_len, trained_context(config).max_seq_len) == (262_144, 262_144)
    config = ModelConfig.from_params(PIXTRAL_12B | {"yarn": YARN, "max_seq_len": 1_000_000})
    assert trained_context(config).max_seq_len == 262_144
    assert ModelConfig.from_params(config.to_params()) == config


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="the key 'dim' is missing"):
        ModelConfig.from_params({key: value for key, value in PIXTRAL_12B.items() if key != "dim"})
