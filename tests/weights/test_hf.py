"""Heads tied to the embeddings, and names that come twice: what Hugging Face's layout alone can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.errors import CheckpointError
from tessera.summary import describe
from tessera.weights.convert import convert
from tests.loading import load_model
from tests.weights.checkpoints import CONFIGS, edit_json, edit_tensors, same_bits, write_mistral_folder

HEAD = "language_model.lm_head.weight"


def hf_folder(tmp_path: Path, kind: str) -> Path:
    write_mistral_folder(tmp_path / "mistral", CONFIGS[kind])
    convert(tmp_path / "mistral", tmp_path / "hf", "hf")
    return tmp_path / "hf"


# Mistral3Config ties when its file does not say otherwise, LlavaConfig does not.
TIED = [
    ("llava", {"tie_word_embeddings": True}),
    ("llava", {"text_config.tie_word_embeddings": True}),
    ("mistral3", {"tie_word_embeddings": True}),
    ("mistral3", {"tie_word_embeddings": None}),
]


@pytest.mark.parametrize(("kind", "says"), TIED, ids=str)
def test_a_tied_head_is_the_embeddings(kind: str, says: dict[str, object], tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, kind)
    edit_tensors(folder / "model.safetensors", **{HEAD: None})
    edit_json(folder / "config.json", **says)
    model = load_model(folder, device="cpu").model
    assert model.output.weight is model.tok_embeddings.weight  # one memory, not two
    stored = (folder / "model.safetensors").stat().st_size
    assert stored - 20_000 < describe(folder).stored_bytes < stored
    in_memory = sum(parameter.nbytes for parameter in load_model(folder, dtype="bfloat16").model.parameters())
    assert describe(folder).weight_bytes == in_memory
    convert(folder, tmp_path / "back", "mistral")
    back = load_model(tmp_path / "back", device="cpu").model
    assert back.output.weight is back.tok_embeddings.weight
    assert same_bits(back.output.weight.data, model.output.weight.data)


def test_a_missing_head_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "llava")
    edit_tensors(folder / "model.safetensors", **{HEAD: None})
    with pytest.raises(CheckpointError, match=r"1 of the model's \d+ tensors are missing, first 'output\.weight'"):
        load_model(folder)


def test_a_head_that_is_there_is_used_whatever_the_config_says(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "mistral3")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    model = load_model(folder, device="cpu").model
    assert not torch.equal(model.output.weight, model.tok_embeddings.weight)


def test_one_tensor_under_an_old_and_a_new_name(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "llava")
    edit_tensors(folder / "model.safetensors", **{"model.vision_tower.ln_pre.weight": torch.ones(64)})
    with pytest.raises(
        CheckpointError, match=r"under two names, .*'vision_tower\.ln_pre\.weight' in model\.safetensors"
    ):
        load_model(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "base_model.model."])
@pytest.mark.parametrize("layout", ["llava", "mistral"])
def test_what_wrappers_put_before_a_name_is_passed_over(prefix: str, layout: str, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "llava")
    if layout == "mistral":
        folder = tmp_path / "mistral"
    plain = load_model(folder, device="cpu").model
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({prefix + name: tensor for name, tensor in (tensors | more).items()}, file)
    wrapped = load_model(folder, device="cpu").model
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), wrapped.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_adapter_is_named_as_one(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "llava")
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    edit_tensors(folder / "model.safetensors", **{name: torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A\.weight' .* is of an adapter; merge it into its model"):
        load_model(folder)


def test_an_unknown_name_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "llava")
    for name in ("foo", "language_model.model.layers.0.self_attn.q_proj.lora_A"):
        edit_tensors(folder / "model.safetensors", **{name: torch.ones(2)})
        with pytest.raises(CheckpointError, match=rf"model\.safetensors holds '{name}'.*use those of one model"):
            load_model(folder)
        edit_tensors(folder / "model.safetensors", **{name: None})
