"""The table of names and the order of rows, both ways, over the full Pixtral 12B (no memory is used)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.weights.hf_names import classic_name, from_hf_rows, permuted_heads, to_hf_name, to_hf_rows
from tests.weights.test_configs import PIXTRAL_12B, SMALL_31


def shapes_of(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Pixtral(config).named_parameters()}


def oracle_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Names and shapes of transformers' own model of the same size."""
    import transformers

    vision, merged = config.vision_encoder, config.vision_encoder.spatial_merge_size > 1
    text_config = transformers.MistralConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
    )
    vision_config = transformers.PixtralVisionConfig(image_size=vision.image_size, patch_size=vision.patch_size)
    shared: dict[str, Any] = {
        "text_config": text_config,
        "vision_config": vision_config,
        "projector_hidden_act": "gelu",
    }
    with torch.device("meta"):
        if merged:
            model: Any = transformers.Mistral3ForConditionalGeneration(transformers.Mistral3Config(**shared))
        else:
            model = transformers.LlavaForConditionalGeneration(
                transformers.LlavaConfig(**shared, vision_feature_layer=-1)
            )
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("config", [PIXTRAL_12B, SMALL_31], ids=["llava", "mistral3"])
def test_every_name_maps_to_the_tensor_of_the_same_shape(config: ModelConfig) -> None:
    ours = {to_hf_name(name): shape for name, shape in shapes_of(config).items()}
    theirs = {classic_name(name): shape for name, shape in oracle_shapes(config).items()}
    assert len(ours) == len(shapes_of(config))
    assert ours == theirs


def test_the_full_model_has_the_published_counts() -> None:
    shapes = shapes_of(PIXTRAL_12B)
    parts: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for name, shape in shapes.items():
        part = name.split(".")[0].removeprefix("vision_")
        part = part if part in ("encoder", "language_adapter") else "decoder"
        parts[part] += shape.numel()
        tensors[part] += 1
    assert len(shapes) == 585
    assert tensors == {"decoder": 363, "encoder": 218, "language_adapter": 4}
    assert parts == {"decoder": 12_247_782_400, "encoder": 403_489_792, "language_adapter": 31_467_520}


def test_rows_are_permuted_in_queries_and_keys_of_both_parts_only() -> None:
    heads = {name: permuted_heads(name, PIXTRAL_12B) for name in shapes_of(PIXTRAL_12B)}
    permuted = {name: count for name, count in heads.items() if count is not None}
    assert len(permuted) == 2 * (40 + 24)
    for name, count in permuted.items():
        expected = 16 if name.startswith("vision_encoder.") else {"wq": 32, "wk": 8}[name.split(".")[-2]]
        assert count == expected, name
    assert all(re.search(r"\.w[qk]\.weight$", name) for name in permuted)


@pytest.mark.parametrize(
    ("name", "classic"),
    [
        ("language_model.model.layers.3.mlp.up_proj.weight", "language_model.model.layers.3.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "language_model.model.layers.3.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.vision_tower.ln_pre.weight", "vision_tower.ln_pre.weight"),
        ("model.multi_modal_projector.norm.weight", "multi_modal_projector.norm.weight"),
    ],
)
def test_each_generation_of_names_reads_as_the_classic_one(name: str, classic: str) -> None:
    assert classic_name(name) == classic


@pytest.mark.parametrize("name", ["layers.0.attention.wx.weight", "rope.freqs", "layers.0.attention.wq.bias"])
def test_other_names_are_not_guessed(name: str) -> None:
    with pytest.raises(KeyError):
        to_hf_name(name)


def test_the_worked_example_of_the_rows() -> None:
    halves = torch.tensor([[0.0], [1.0], [10.0], [11.0], [20.0], [21.0], [30.0], [31.0]])  # two heads of four rows
    neighbours = from_hf_rows(halves, heads=2)
    assert neighbours.flatten().tolist() == [0.0, 10.0, 1.0, 11.0, 20.0, 30.0, 21.0, 31.0]
    assert torch.equal(to_hf_rows(neighbours, heads=2), halves)


@given(st.integers(1, 8), st.integers(1, 16), st.integers(1, 5))
def test_the_two_orders_of_rows_are_inverses(heads: int, pairs: int, columns: int) -> None:
    rows = torch.arange(heads * pairs * 2 * columns, dtype=torch.float32).view(-1, columns)
    assert torch.equal(to_hf_rows(from_hf_rows(rows, heads), heads), rows)
    assert torch.equal(from_hf_rows(to_hf_rows(rows, heads), heads), rows)
    # Row i of a head's first half pairs with row i of its second: they come to stand side by side.
    assert torch.equal(from_hf_rows(rows, heads)[:2], rows[[0, pairs]])
