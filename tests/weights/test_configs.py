"""config.json in every form that is about, read as one and the same ModelConfig; what is foreign is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig, VisionConfig
from tessera.model.family import MINISTRAL_3_3B
from tessera.weights import hf, hf_names, mistral
from tests.weights.checkpoints import CONFIGS

# params.json of Pixtral 12B, as released.
PIXTRAL_12B_PARAMS: dict[str, Any] = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "rope_theta": 1000000000.0, "norm_eps": 1e-05, "vocab_size": 131072,
    "vision_encoder": {
        "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 10000.0,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_token_id": 10,
    },
}  # fmt: skip
# config.json of its Hugging Face upload: defaults left out, gelu, and a context of a million.
PIXTRAL_12B_HF: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_seq_length": 1,
    "image_token_index": 10, "model_type": "llava", "projector_hidden_act": "gelu",
    "text_config": {
        "head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336, "is_composition": True,
        "max_position_embeddings": 1024000, "model_type": "mistral", "num_hidden_layers": 40,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0, "sliding_window": None,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {
        "head_dim": 64, "hidden_act": "gelu", "image_size": 1024, "is_composition": True, "model_type": "pixtral",
        "patch_size": 16, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
PIXTRAL_12B = ModelConfig.from_params(PIXTRAL_12B_PARAMS)
PIXTRAL_LARGE = ModelConfig(
    dim=12288, n_layers=88, head_dim=128, hidden_dim=28672, n_heads=96, n_kv_heads=8, rope_theta=1e9, norm_eps=1e-5,
    vocab_size=32768,
    vision_encoder=VisionConfig(
        hidden_size=1408, image_size=1024, patch_size=16, rope_theta=1e4, intermediate_size=6144, num_hidden_layers=40,
        num_attention_heads=16, image_break_token_id=14, image_end_token_id=15, adapter_bias=False,
    ),
)  # fmt: skip
SMALL_31 = ModelConfig(
    dim=5120, n_layers=40, head_dim=128, hidden_dim=32768, n_heads=32, n_kv_heads=8, rope_theta=1e9, norm_eps=1e-5,
    vocab_size=131072,
    vision_encoder=VisionConfig(
        hidden_size=1024, image_size=1540, patch_size=14, rope_theta=1e4, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, adapter_bias=False, mm_projector_id="patch_merge", spatial_merge_size=2,
        add_pre_mm_projector_layer_norm=True,
    ),
)  # fmt: skip
FAMILY = {"12B": PIXTRAL_12B, "Large": PIXTRAL_LARGE, "Small 3.1": SMALL_31}


def read(folder: Path, content: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(content))
    return hf.read_config(folder)


def changed(**changes: Any) -> dict[str, Any]:
    """The published config.json with keys set; section__key reaches into a section, ... removes."""
    content: dict[str, Any] = json.loads(json.dumps(PIXTRAL_12B_HF))
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = content[sections[0]] if sections else content
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return content


def test_the_published_config_is_read_as_the_official_one(tmp_path: Path) -> None:
    assert read(tmp_path, PIXTRAL_12B_HF) == PIXTRAL_12B
    assert PIXTRAL_12B.max_seq_len == 131_072  # not 1,024,000


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config__hidden_act": "silu"},
        {"vision_config__hidden_act": ...},
        {"image_token_index": ..., "image_token_id": 10},
        {"text_config__num_attention_heads": 32},
        {"vision_config__patch_size": [16, 16], "vision_config__image_size": [1024, 1024]},
        {"text_config__rope_theta": ..., "text_config__rope_parameters": {"rope_theta": 1e9, "rope_type": "default"}},
        {"text_config__rope_theta": ..., "text_config__rope_parameters": {"full_attention": {"rope_theta": 1e9}}},
        {"vision_config__rope_theta": ..., "vision_config__rope_parameters": {"rope_theta": 1e4, "rope_type": "axial"}},
        {"text_config__rope_scaling": None},
        {"text_config__sliding_window": 1_024_000},
        {"multimodal_projector_bias": True},
        {"vision_config__head_dim": None},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_other_forms_of_the_same_config(changes: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, changed(**changes)) == PIXTRAL_12B


def test_null_in_params_is_as_if_it_were_not_there() -> None:
    later = ("moe", "yarn", "quantization", "sliding_window", "lora", "rope_scaling")
    assert ModelConfig.from_params(PIXTRAL_12B_PARAMS | dict.fromkeys(later)) == PIXTRAL_12B
    for name in ("moe", "quantization", "sliding_window"):
        with pytest.raises(CheckpointError, match=f"unknown key {name!r}"):
            ModelConfig.from_params(PIXTRAL_12B_PARAMS | {name: {"a": 1}})
    with pytest.raises(CheckpointError, match="the key 'dim' is missing"):
        ModelConfig.from_params(PIXTRAL_12B_PARAMS | {"dim": None})


def test_a_short_context_stays_short(tmp_path: Path) -> None:
    assert read(tmp_path, changed(text_config__max_position_embeddings=4096)).max_seq_len == 4096


@pytest.mark.parametrize("config", [*FAMILY.values(), *CONFIGS.values()])
def test_written_configs_are_read_back_equal(config: ModelConfig, tmp_path: Path) -> None:
    # Whether the head is tied is told by the tensors: files say so that have a head of its own.
    written = read(tmp_path, hf.write_config(config, torch.bfloat16))
    assert dataclasses.replace(written, tied_embeddings=config.tied_embeddings) == config
    (tmp_path / "params.json").write_text(json.dumps(config.to_params()))
    assert mistral.read_config(tmp_path) == config


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_transformers_has_the_same_tensors(config: ModelConfig) -> None:
    """Full size, without memory: every name and shape, as transformers builds it from our config.json."""
    transformers = pytest.importorskip("transformers")
    from tessera.weights.fill import empty_model

    content = hf.write_config(config, torch.bfloat16)
    kind = content.pop("model_type")
    with torch.device("meta"):
        theirs = getattr(transformers, content["architectures"][0])(transformers.CONFIG_MAPPING[kind](**content))
    ours = {hf_names.to_hf_name(name): tensor.shape for name, tensor in empty_model(config).named_parameters()}
    assert {hf_names.classic_name(name): tensor.shape for name, tensor in theirs.named_parameters()} == ours


@pytest.mark.parametrize(
    ("changes", "value", "way_out"),
    [
        ({"model_type": "qwen2_vl"}, "'qwen2_vl'", "llava or mistral3"),
        ({"model_type": ["llava"]}, "['llava']", "llava or mistral3"),
        ({"text_config__rope_parameters": "yarn"}, "'yarn'", "download"),
        ({"text_config__rope_parameters": {"full_attention": 1}}, "are 1", "download"),
        ({"vision_config__image_size": [[1024], [1024]]}, "[1024]", "download"),
        ({"vision_config": ...}, "'llava'", "vision_config"),
        ({"vision_config__model_type": "clip_vision_model"}, "'clip_vision_model'", "'pixtral'"),
        ({"vision_config__hidden_act": "quick_gelu"}, "'quick_gelu'", "'silu' or 'gelu'"),
        ({"text_config__model_type": "llama"}, "'llama'", "'mistral'"),
        ({"text_config__hidden_act": "gelu"}, "'gelu'", "'silu'"),
        ({"text_config__sliding_window": 4096}, "4096", "None"),
        ({"projector_hidden_act": "relu"}, "'relu'", "'gelu'"),
        ({"vision_feature_layer": -2}, "-2", "-1"),
        ({"vision_feature_select_strategy": "default"}, "'default'", "'full'"),
        ({"vision_config__head_dim": 80}, "80", "64"),
        ({"text_config__rope_scaling": {"type": "yarn", "factor": 8}}, "'yarn'", "use a model of it"),
        ({"text_config__hidden_size": ...}, "'hidden_size'", "download"),
        ({"text_config__hidden_size": "5120"}, "'5120'", "positive integer"),
        ({"text_config__num_attention_heads": 0}, "0", "positive integer"),
        ({"text_config__rms_norm_eps": "tiny"}, "'tiny'", "download"),
        ({"vision_config__num_hidden_layers": -1}, "-1", "more than 0"),
        ({"text_config__num_key_value_heads": 7}, "7", "multiple"),
        ({"model_type": "mistral3", "spatial_merge_size": 1}, "1", "2"),
        ({"model_type": "mistral3", "text_config__rms_norm_eps": 1e-6}, "1e-06", "1e-05"),
    ],
    ids=str,
)
def test_foreign_settings_are_refused(changes: dict[str, Any], value: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path, changed(**changes))
    message = str(refused.value)
    assert str(tmp_path / "config.json") in message
    assert value in message
    assert way_out in message


def test_a_model_that_transformers_has_no_class_for_is_not_written() -> None:
    vision = dataclasses.replace(SMALL_31.vision_encoder, add_pre_mm_projector_layer_norm=False)
    with pytest.raises(CheckpointError, match=r"spatial_merge_size 2, norm False.*keep it in the mistral layout"):
        hf.write_config(dataclasses.replace(SMALL_31, vision_encoder=vision), torch.bfloat16)


def test_break_and_end_ids_come_from_the_files_beside(tmp_path: Path) -> None:
    def ids() -> tuple[int, int]:
        vision = read(tmp_path, PIXTRAL_12B_HF).vision_encoder
        return vision.image_break_token_id, vision.image_end_token_id

    names = ("[IMG_BREAK]", "[IMG_END]")
    assert ids() == (12, 13)
    tokens = [{"id": 21 + place, "content": name} for place, name in enumerate(names)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    assert ids() == (21, 22)
    decoder = {str(31 + place): {"content": name} for place, name in enumerate(names)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert ids() == (31, 32)
    # Version 3's own file lists no special tokens: it decides nothing.
    (tmp_path / "tekken.json").write_text(json.dumps({"vocab": []}))
    assert ids() == (31, 32)
    special = [{"rank": 41 + place, "token_str": name} for place, name in enumerate(names)]
    (tmp_path / "tekken.json").write_text(json.dumps({"special_tokens": special}))
    assert ids() == (41, 42)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"dim": "5120"}, "dim is '5120'"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"norm_epss": 1e-5}, "'norm_epss'; the nearest known key is 'norm_eps'"),
        ({"vision_encoder": None}, "no vision_encoder"),
        ({"n_kv_heads": 5}, "n_kv_heads 5"),
        ({"n_layers": 10**9}, "n_layers is 1000000000 and must be more than 0 and at most 1000"),
        ({"dim": 2**40}, "dim is 1099511627776 and must be more than 0 and at most 1048576"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"norm_eps": 10**400}, "norm_eps is 1000"),
        ({"head_dim": 127}, "head_dim 127 is odd"),
        ({"vocab_size": 12}, "(10, 12, 13), and the vocabulary has 12 tokens"),
        ({"vision_encoder": PIXTRAL_12B_PARAMS["vision_encoder"] | {"num_channels": 4}}, "num_channels is 4"),
        ({"vision_encoder": PIXTRAL_12B_PARAMS["vision_encoder"] | {"image_token_id": -1}}, "image_token_id is -1"),
    ],
    ids=str,
)
def test_a_wrong_params_file_is_refused(params: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(PIXTRAL_12B_PARAMS | params))
    with pytest.raises(CheckpointError) as refused:
        mistral.read_config(tmp_path)
    assert str(file) in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_side_file_that_is_no_json_object_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"params\.json (is not valid JSON|holds no JSON object); download"):
        mistral.read_config(tmp_path)


def test_a_side_file_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "params.json").open("wb") as file:
        file.truncate(2**40)  # sparse: the disk holds none of it
    with pytest.raises(CheckpointError, match=r"has 1,099,511,627,776 bytes and may have 100,000,000"):
        mistral.read_config(tmp_path)


@pytest.mark.parametrize("listed", ["abc", [1], {"x": {}}, {"1": "x"}, [{"content": []}]], ids=str)
def test_a_list_of_tokens_that_is_none_is_named(listed: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: added_tokens_decoder is not a list of tokens"):
        read(tmp_path, PIXTRAL_12B_HF)


def test_the_context_limit_under_its_other_name(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(PIXTRAL_12B_PARAMS | {"max_position_embeddings": 32_768}))
    assert mistral.read_config(tmp_path).max_seq_len == 32_768


# config.json of Ministral 3 3B, as released; of its vision_config what is not a default here.
MINISTRAL_3B_HF: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": 10,
    "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 9216, "max_position_embeddings": 262144,
        "model_type": "ministral3", "num_attention_heads": 32, "num_hidden_layers": 26, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0,
            "rope_type": "yarn", "type": "yarn",
        },
        "sliding_window": None, "tie_word_embeddings": True, "use_cache": True, "vocab_size": 131072,
    },
    "vision_config": {"model_type": "pixtral", "hidden_act": "silu", "image_size": 1540, "patch_size": 14,
                      "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "vision_feature_layer": -1,
}  # fmt: skip


def test_the_published_config_of_ministral_3_is_the_familys(tmp_path: Path) -> None:
    # That its head is tied is told by the tensors.
    assert dataclasses.replace(read(tmp_path, MINISTRAL_3B_HF), tied_embeddings=True) == MINISTRAL_3_3B


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"short_factor": [1.0]}, "unknown key 'short_factor'"),
        ({"mscale_all_dim": 0.5}, "mscale 1.0 and mscale_all_dim 0.5"),
        ({"truncate": False}, "truncate is False and may be True only"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"attention_factor": 1.3}, "attention_factor is 1.3"),
        ({"rope_type": "llama3"}, "'llama3' is not of the Pixtral family"),
        ({"factor": None}, "the key 'factor' is missing"),
        ({"original_max_position_embeddings": None}, "'original_max_position_embeddings' is missing"),
    ],
    ids=str,
)
def test_other_rotations_of_ministral_3_are_refused(rope: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = json.loads(json.dumps(MINISTRAL_3B_HF))
    content["text_config"]["rope_parameters"] |= rope
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, content)
