"""transformers as the oracle: what we write it loads, what it saves we load, and both give the same logits.

A wrong order of rows in queries and keys still gives fluent text, so only equal logits count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.model.attention import DensePlan
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.weights.convert import convert
from tests.loading import load_model
from tests.weights.checkpoints import CONFIGS, edit_json, same_bits, write_mistral_folder, write_tokenizer

GRIDS = ((4, 2), (2, 3))  # of tokens; two images of different shapes


def oracle_class(kind: str) -> Any:
    import transformers

    return getattr(transformers, ("Llava" if kind == "llava" else "Mistral3") + "ForConditionalGeneration")


def oracle_model(config: ModelConfig, kind: str) -> Any:
    """A random model of transformers, in float32, of the same shape as `config`."""
    from transformers import LlavaConfig, Ministral3Config, Mistral3Config, MistralConfig, PixtralVisionConfig

    vision = config.vision_encoder
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.yarn is not None and config.llama_4_scaling is not None:
        rope |= {
            "rope_type": "yarn", "factor": config.yarn.factor, "beta_fast": config.yarn.beta,
            "beta_slow": config.yarn.alpha, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": config.yarn.original_max_position_embeddings,
            "llama_4_scaling_beta": config.llama_4_scaling.beta,
        }  # fmt: skip
    text_config = (MistralConfig if config.yarn is None else Ministral3Config)(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=config.tied_embeddings,
        max_position_embeddings=config.max_seq_len,
        sliding_window=None,
    )
    vision_config = PixtralVisionConfig(
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        rope_parameters={"rope_theta": vision.rope_theta, "rope_type": "axial"},
        hidden_act="silu",
    )
    shared: dict[str, Any] = {
        "vision_config": vision_config,
        "text_config": text_config,
        "image_token_index": vision.image_token_id,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "tie_word_embeddings": config.tied_embeddings,
    }
    torch.manual_seed(1)
    if kind == "llava":
        model = oracle_class(kind)(LlavaConfig(**shared, vision_feature_select_strategy="full"))
    else:
        model = oracle_class(kind)(Mistral3Config(**shared, spatial_merge_size=vision.spatial_merge_size))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return model.eval()


def example(config: ModelConfig) -> tuple[Tensor, list[Tensor]]:
    """Ids of a prompt with two images, and the images."""
    vision = config.vision_encoder
    ids = [1, 3]
    for rows, columns in GRIDS:
        row = [vision.image_token_id] * columns + [vision.image_break_token_id]
        ids += row * rows
        ids[-1] = vision.image_end_token_id
    side = vision.token_size
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(3, rows * side, columns * side, generator=generator) for rows, columns in GRIDS]
    return torch.tensor([*ids, 1100, 1101, 1102, 4]), images


@torch.inference_mode()
def oracle_logits(model: Any, ids_T: Tensor, images: list[Tensor]) -> Tensor:
    sizes = [image.shape[1:] for image in images]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    pixels = torch.zeros(len(images), 3, height, width)
    for place, image in zip(pixels, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    out: Tensor = model(input_ids=ids_T[None], pixel_values=pixels, image_sizes=torch.tensor(sizes)).logits[0]
    return out


@torch.inference_mode()
def our_logits(model: Pixtral, ids_T: Tensor, images: list[Tensor]) -> Tensor:
    embeddings = model.encode_images(images)
    return model.logits(model(model.embed(ids_T, embeddings), DensePlan([len(ids_T)])))


@pytest.mark.parametrize("max_shard_bytes", [10**9, 150_000])
@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_loads_what_we_write(kind: str, max_shard_bytes: int, tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", CONFIGS[kind], torch.float32)
    convert(tmp_path / "a", tmp_path / "hf", "hf", max_shard_bytes=max_shard_bytes)
    model, report = oracle_class(kind).from_pretrained(tmp_path / "hf", dtype="auto", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.model_type == ("llava" if kind == "llava" else "mistral3")
    assert model.config.text_config.model_type == ("ministral3" if kind == "ministral3" else "mistral")
    assert model.dtype == torch.float32
    assert model.config.text_config.rope_parameters["rope_theta"] == 1e9
    ours = load_model(tmp_path / "a", device="cpu").model
    ids_T, images = example(CONFIGS[kind])
    theirs_TV, ours_TV = oracle_logits(model, ids_T, images), our_logits(ours, ids_T, images)
    torch.testing.assert_close(ours_TV, theirs_TV, atol=1e-5, rtol=1e-5)  # float32, other order of sums
    assert theirs_TV.std() > 0.04  # the logits say something


@pytest.mark.parametrize("max_shard_size", ["1GB", "150KB"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_we_load_what_transformers_saves(kind: str, max_shard_size: str, tmp_path: Path) -> None:
    theirs = oracle_model(CONFIGS[kind], kind)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size=max_shard_size)
    write_tokenizer(tmp_path / "hf" / "tekken.json")
    assert ((tmp_path / "hf" / "model.safetensors.index.json").exists()) == (max_shard_size == "150KB")
    loaded = load_model(tmp_path / "hf", device="cpu")
    assert loaded.config == CONFIGS[kind]
    ids_T, images = example(CONFIGS[kind])
    torch.testing.assert_close(
        our_logits(loaded.model, ids_T, images), oracle_logits(theirs, ids_T, images), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_without_the_prefix_and_with_it_is_the_same_model(kind: str, tmp_path: Path) -> None:
    """The three generations of names: classic (language_model.model., language_model.lm_head), and `model.` first."""
    from safetensors.torch import load_file, save_file

    theirs = oracle_model(CONFIGS[kind], kind)
    classic = tmp_path / "classic"
    theirs.save_pretrained(classic)
    write_tokenizer(classic / "tekken.json")
    stored = load_file(classic / "model.safetensors")
    newer = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    assert {name.split(".")[0] for name in newer} == {"model", "lm_head"}
    if CONFIGS[kind].tied_embeddings:
        del newer["lm_head.weight"]  # the same memory as the embeddings
    bare = {name.removeprefix("model."): value for name, value in newer.items()}
    expected = dict(load_model(classic, device="cpu").model.named_parameters())
    for number, tensors in enumerate((stored, newer, bare)):
        if number == 2:  # without `model.`, the decoder's own `model.` is there: as in the first Pixtral uploads
            tensors = {
                name.replace("language_model.", "language_model.model.").replace(
                    "lm_head", "language_model.lm_head"
                ): value
                for name, value in bare.items()
            }
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in ("config.json", "tekken.json"):
            (folder / file).write_bytes((classic / file).read_bytes())
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        for name, parameter in load_model(folder, device="cpu").model.named_parameters():
            assert same_bits(parameter.data, expected[name].data), name


def test_early_uploads_load(tmp_path: Path) -> None:
    """A config as the first uploads of Pixtral 12B have it: flat rotary base, few keys, gelu in the vision tower."""
    theirs = oracle_model(CONFIGS["llava"], "llava")
    theirs.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf" / "tekken.json")
    ids_T, images = example(CONFIGS["llava"])
    before = our_logits(load_model(tmp_path / "hf", device="cpu").model, ids_T, images)
    edit_json(
        tmp_path / "hf" / "config.json",
        **{
            "text_config.rope_parameters": None,
            "text_config.rope_theta": 1e9,
            "text_config.max_position_embeddings": 1_024_000,
            "vision_config.rope_parameters": None,
            "vision_config.rope_theta": 10_000.0,
            "vision_config.hidden_act": "gelu",
            "multimodal_projector_bias": None,
            "tie_word_embeddings": None,
        },
    )
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["image_token_id"] = config.pop("image_token_index")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    loaded = load_model(tmp_path / "hf", device="cpu")
    assert loaded.config.max_seq_len == 131_072
    assert torch.equal(our_logits(loaded.model, ids_T, images), before)
