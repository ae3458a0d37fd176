"""params.json: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig

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
        ({"tied_embeddings": True}, "unknown key 'tied_embeddings'"),
        ({"vision_encoder": None}, "text-only model"),
        ({"n_kv_heads": 7}, "n_heads 32 is not a multiple of n_kv_heads 7"),
        ({"dim": "5120"}, "should be of type int"),
        ({"n_layers": 0}, "must be more than 0"),
    ],
)
def test_what_would_change_the_computation_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        ModelConfig.from_params(PIXTRAL_12B | changes)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="the key 'dim' is missing"):
        ModelConfig.from_params({key: value for key, value in PIXTRAL_12B.items() if key != "dim"})
