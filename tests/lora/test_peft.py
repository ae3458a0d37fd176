"""peft's folders: every spelling of the names is read, the newest is written, and nothing is dropped in silence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera import matching
from tessera.errors import CheckpointError
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.files import read_adapter
from tessera.lora.names import classic_path, hf_linears
from tessera.lora.peft import write_peft
from tessera.weights.safetensors import StoredTensor
from tests.lora.adapters import live_paths, random_adapter, random_pairs, write_peft_folder
from tests.weights.checkpoints import LLAVA

SHAPES = live_paths(LLAVA)
DECODER = {path: shape for path, shape in SHAPES.items() if ".language_model." in path}


def classic(path: str) -> str:
    return path.removeprefix("model.").replace("language_model.", "language_model.model.")


def text_only(path: str) -> str:
    return path.replace("language_model.", "")


def test_an_adapted_head_comes_with_copies_that_are_left_out(tmp_path: Path) -> None:
    """peft saves a head's own weight of itself; of another shape it belongs to another vocabulary."""
    folder = write_peft_folder(tmp_path / "a", random_pairs({"lm_head": (LLAVA.vocab_size, LLAVA.dim)}))
    file = folder / "adapter_model.safetensors"
    read = read_adapter(folder, LLAVA)
    assert list(read.modules) == ["output"]
    whole = {"base_model.model.lm_head.base_layer.weight": torch.ones(LLAVA.vocab_size, LLAVA.dim)}
    save_file(load_file(file) | whole, file)
    again = read_adapter(folder, LLAVA)
    assert again.digest == read.digest
    assert "lm_head.base_layer.weight: peft's copies" in again.notes[0]
    save_file(load_file(file) | {name: each[:-1].clone() for name, each in whole.items()}, file)
    assert "saved whole" in refused(folder)


@pytest.mark.parametrize(
    ("rename", "shapes"),
    [(str, SHAPES), (classic, SHAPES), (text_only, DECODER)],
    ids=["transformers 5", "classic", "text only"],
)
def test_every_spelling_is_the_same_adapter(tmp_path: Path, rename: Callable[[str], str], shapes: Any) -> None:
    pairs = random_pairs(shapes)
    read = read_adapter(write_peft_folder(tmp_path / "a", pairs, rename), LLAVA)
    newest = read_adapter(write_peft_folder(tmp_path / "b", pairs), LLAVA)
    vision = "14/14" if shapes is SHAPES else "0/14"
    assert read.counts(LLAVA) == f"decoder 14/14, vision {vision}, adapter {'2/2' if shapes is SHAPES else '0/2'}"
    assert read.digest == newest.digest
    wq = read.modules["layers.1.attention.wq"]
    a_RK, b_NR = pairs["model.language_model.layers.1.self_attn.q_proj"]
    assert torch.equal(wq.a_RK, a_RK)
    assert wq.scale == 2.0
    # Within a head of 24, transformers pairs rows (i, i + 12), we (2 i, 2 i + 1).
    assert torch.equal(wq.b_NR[:4], b_NR[[0, 12, 1, 13]])
    assert torch.equal(wq.b_NR[24], b_NR[24])


def test_what_is_written_is_what_was_read_byte_for_byte(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "in", random_pairs(SHAPES), lora_alpha=16, base_model_name_or_path="nano")
    notes = write_peft(read_adapter(folder, LLAVA), tmp_path / "out", LLAVA)
    before, after = (load_file(each / "adapter_model.safetensors") for each in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 16, "nano")
    assert config["target_modules"] == sorted([*{path.rpartition(".")[2] for path in SHAPES}])
    assert "--enable-tower-connector-lora" in " ".join(notes)
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight" in after


def test_an_adapter_of_the_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    matrices = torch.ones(2, LLAVA.dim), torch.ones(LLAVA.vocab_size, 2)
    adapter = LoraAdapter.of({"output": LowRank(*matrices, 2.0)}, LLAVA, "here")
    write_peft(adapter, tmp_path / "out", LLAVA)
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").keys() == {
        "base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.lora_B.weight"
    }  # fmt: skip
    assert read_adapter(tmp_path / "out", LLAVA).digest == adapter.digest


def test_a_part_s_adapter_names_its_modules_in_full(tmp_path: Path) -> None:
    """The suffix q_proj would also mean the vision encoder's."""
    adapter = random_adapter(LLAVA, lambda name: name.startswith("layers.") and name.endswith("wq"))
    write_peft(adapter, tmp_path / "out", LLAVA)
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert targets == [f"model.language_model.layers.{layer}.self_attn.q_proj" for layer in range(2)]


def test_patterns_and_rank_stabilized_scales(tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, lambda path: 2 if path.endswith("down_proj") else 4)
    settings: dict[str, Any] = {
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {r"^model\.vision_tower.*q_proj": 32, "v_proj": 1},
    }
    read = read_adapter(write_peft_folder(tmp_path / "a", pairs, use_rslora=True, **settings), LLAVA)
    scales = {name: module.scale for name, module in read.modules.items()}
    assert scales["layers.0.attention.wq"] == 8 / 2
    assert scales["layers.0.attention.wv"] == 1 / 2
    assert scales["layers.0.feed_forward.w2"] == 8 / math.sqrt(2)
    assert scales["vision_encoder.transformer.layers.1.attention.wq"] == 32 / 2

    # Written with one rank and one scale, which is all that vLLM knows.
    write_peft(read, tmp_path / "out", LLAVA)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 16)
    assert "rank_pattern" not in config
    again = read_adapter(tmp_path / "out", LLAVA)
    assert {(module.rank, module.scale) for module in again.modules.values()} == {(4, 4.0)}
    for name, module in again.modules.items():
        torch.testing.assert_close(module.change(), read.modules[name].change(), rtol=1e-5, atol=1e-7)


def test_patterns_mean_what_they_mean_to_peft(tmp_path: Path) -> None:
    patterns = {
        r".*\.(?:q|k)_proj": 1, "layers.1.self_attn": 2, r"layers.\d+.self_attn.v_proj": 3, r"mlp\.(up|gate)_proj$": 4,
        r"^model\.language_model\.layers\.0\..*": 5, r"(o)_pr\3j": 6,
    }  # fmt: skip
    read = read_adapter(write_peft_folder(tmp_path / "a", random_pairs(DECODER), alpha_pattern=patterns), LLAVA)
    linears, seen = hf_linears(LLAVA), set()
    for path in DECODER:  # as in peft's get_pattern_key
        alpha = next((alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), 8)
        assert read.modules[linears[classic_path(path)]].scale == alpha / 4
        seen.add(alpha)
    assert seen == {1, 3, 4, 5, 6, 8}


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapter(folder, LLAVA)
    return str(caught.value)


def test_a_name_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    pairs = random_pairs({**SHAPES, "model.language_model.layers.2.self_attn.q_proj": (96, 64)})
    text = refused(write_peft_folder(tmp_path / "a", pairs))
    assert "layers.2.self_attn.q_proj" in text
    assert "2 such tensors of 62" in text
    folder = write_peft_folder(tmp_path / "b", random_pairs(DECODER))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    assert "saved whole" in refused(folder)


def test_an_empty_adapter_is_refused(tmp_path: Path) -> None:
    assert "changes no linear" in refused(write_peft_folder(tmp_path / "a", {}))


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "LOHA"}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"r": 8},
        {"init_lora_weights": "pissa_niter_16"}, {"lora_alpha": float("nan")}, {"lora_alpha": "8"},
        {"alpha_pattern": {"(|)" * 60 + "x": 1}}, {"rank_pattern": {"a" * 201: 1}}, {"rank_pattern": {"(": 1}},
        {"r": 4.5}, {"rank_pattern": {"q_proj": 4.5}}, {"alpha_pattern": {f"q.*{number}": 1 for number in range(1001)}},
    ],
    ids=lambda settings: str(settings)[:40],
)  # fmt: skip
def test_settings_that_change_the_computation_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(matching, "MAX_SECONDS", 0)  # until the system has counted one whole second
    text = refused(write_peft_folder(tmp_path / "a", random_pairs(DECODER), **settings))
    assert next(iter(settings)).removesuffix("_pattern") in text or "rank 8" in text


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        ("lora_A", torch.zeros(4, 63)),
        ("lora_B", torch.zeros(4, 96)),
        ("lora_B", torch.full((96, 4), float("inf"))),
        ("lora_A", torch.zeros(4, 64, dtype=torch.int8)),
        ("lora_A", None),
        ("lora_B", torch.zeros(96, 0)),
    ],
    ids=["shape", "turned", "infinite", "dtype", "missing", "rank 0"],
)
def test_damaged_matrices_are_refused(tmp_path: Path, matrix: str, value: Tensor | None) -> None:
    file = write_peft_folder(tmp_path / "a", random_pairs(DECODER)) / "adapter_model.safetensors"
    tensors = load_file(file)
    key = f"base_model.model.{next(iter(DECODER))}.{matrix}.weight"
    del tensors[key]
    save_file(tensors if value is None else {**tensors, key: value}, file)
    text = refused(tmp_path / "a")
    assert "layers.0.self_attn.q_proj" in text or "layers.0.attention.wq" in text


def test_matrices_that_do_not_fit_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with holes can announce more than the machine has."""

    def read(stored: StoredTensor) -> Tensor:
        raise AssertionError(stored.name)

    monkeypatch.setattr(StoredTensor, "read", read)
    path, shape = next(iter(DECODER.items()))
    file = write_peft_folder(tmp_path / "a", random_pairs({path: shape}, 8), r=8) / "adapter_model.safetensors"
    key = f"base_model.model.{path}.lora_A.weight"
    save_file(load_file(file) | {key: torch.zeros(9, 64)}, file)
    assert "(9, 64) and B of (96, 8)" in refused(tmp_path / "a")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "a", random_pairs(DECODER))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickle" in refused(folder)


def test_the_digest_is_of_the_content() -> None:
    one = random_adapter(LLAVA)
    other = LoraAdapter.of(one.modules, LLAVA, "elsewhere", base="nano")
    assert one.digest == other.digest != random_adapter(LLAVA, scale=1.0).digest
