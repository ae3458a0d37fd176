"""Files of llama.cpp's architecture `mistral3`: what they say of the rotation is read or named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera.errors import CheckpointError
from tessera.kernels.packed_weight import dequantize
from tessera.linears.quantized import QuantizedLinear
from tests.loading import load_model
from tests.weights.checkpoints import MERGED, TIED, tensors_of
from tests.weights.gguf.files import decode, encode, scaling_values, write_pair

SCALING = dict.fromkeys(scaling_values(TIED))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=["F32", "Q8_0"])
def test_a_scaled_model_with_a_tied_head(kind: Kind, tmp_path: Path) -> None:
    """Of embeddings in 8 bits the head has the very codes, as in llama.cpp."""
    loaded = load_model(write_pair(tmp_path, kind, config=TIED), device="cpu", dtype="float32")
    assert loaded.config == TIED
    head = loaded.model.output
    if kind == Kind.F32:
        assert head.weight is loaded.model.tok_embeddings.weight
        return
    assert isinstance(head, QuantizedLinear)
    embeddings = tensors_of(TIED, torch.float32)["tok_embeddings.weight"]
    assert torch.equal(dequantize(head.quantized), decode(encode(embeddings, kind), kind))


def test_mistral_small_as_newer_converters_name_it(tmp_path: Path) -> None:
    """The architecture without any scaling is the plain rotation."""
    file = write_pair(tmp_path, config=TIED, text_values=SCALING)
    config = load_model(file, device="cpu").config
    assert config == dataclasses.replace(MERGED, tied_embeddings=True, max_seq_len=131_072)


def test_missing_keys_have_llama_cpps_defaults(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "mistral3.rope.scaling.yarn_beta_fast": None,
        "mistral3.rope.scaling.yarn_beta_slow": None,
        "mistral3.rope.scaling.yarn_ext_factor": 1.0,
        "mistral3.attention.temperature_scale": 0.0,
    }
    config = load_model(write_pair(tmp_path, config=TIED, text_values=changes), device="cpu").config
    assert config.yarn == dataclasses.replace(TIED.yarn, beta=32.0, alpha=1.0)  # type: ignore[type-var]
    assert config.llama_4_scaling is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope.scaling.type": "longrope"}, r"rope\.scaling\.type is 'longrope', and this model needs 'none'"),
        ({"rope.scaling.type": None}, r"has the key 'mistral3\.(attention|rope)\..*, which is not known here"),
        (
            {"rope.scaling.yarn_log_multiplier": None},
            r"the key 'mistral3\.rope\.scaling\.yarn_log_multiplier' is missing",
        ),
        ({"rope.scaling.yarn_log_multiplier": 0.5}, r"yarn_log_multiplier is 0\.5, and this model needs 1\.0"),
        ({"rope.scaling.yarn_ext_factor": 0.5}, r"yarn_ext_factor is 0\.5, and this model needs 1\.0"),
        ({"rope.scaling.original_context_length": None}, r"original_context_length' is missing"),
        ({"rope.scaling.original_context_length": 0}, r"original_context_length is 0, and it must be"),
        ({"rope.scaling.factor": 0.5}, r"yarn has factor 0\.5"),
        ({"rope.scaling.factor": float("inf")}, r"factor is inf, and it must be a positive number"),
        ({"attention.temperature_scale": -1.0}, r"temperature_scale is -1\.0, and it must be a positive number"),
        ({"attention.temperature_length": 32}, r"temperature_length', which is not known here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_scaled_models_file_may_not_say(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    values = {f"mistral3.{key}": value for key, value in changes.items()}
    with pytest.raises(CheckpointError, match=says):
        load_model(write_pair(tmp_path, config=TIED, text_values=values), device="cpu")
