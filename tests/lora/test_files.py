"""Mistral's and llama.cpp's files: what the other programs read, with their scales, and what they cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.errors import CheckpointError, UsageError
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.files import base_of, read_adapter, write_mistral
from tessera.lora.gguf_files import write_gguf_adapter
from tests.lora.adapters import random_adapter, random_pairs, write_peft_folder
from tests.weights.checkpoints import LLAVA


def decoder(name: str) -> bool:
    return name.startswith("layers.")


def test_mistral_s_loader_adds_twice_the_product(tmp_path: Path) -> None:
    """mistral-inference: weight += scaling * (lora_B @ lora_A), scaling 2 unless its caller says another."""
    adapter = random_adapter(LLAVA, scale=0.5)
    notes = write_mistral(adapter, tmp_path / "out", LLAVA, torch.float32)
    tensors = load_file(tmp_path / "out" / "lora.safetensors")
    assert {key.rpartition(".lora_")[0] for key in tensors} == {name for name in adapter.modules if decoder(name)}
    for name, module in adapter.modules.items():
        if decoder(name):
            added = 2.0 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
            torch.testing.assert_close(added, 0.5 * module.b_NR @ module.a_RK, rtol=1e-5, atol=1e-7)
    assert len(notes) == 1
    assert "16 of 30 modules are left out" in notes[0]
    assert "merge" in notes[0]
    params = json.loads((tmp_path / "out" / "params.json").read_text())
    assert params["lora"] == {"enable": True, "rank": 4, "dropout": 0.0, "scaling": 2.0}


def test_mistral_s_adapter_is_read_with_its_scale(tmp_path: Path) -> None:
    adapter = random_adapter(LLAVA, decoder)
    folder = tmp_path / "checkpoint_000100" / "consolidated"
    folder.mkdir(parents=True)
    tensors = {f"{name}.lora_A.weight": module.a_RK.bfloat16() for name, module in adapter.modules.items()}
    tensors |= {f"{name}.lora_B.weight": module.b_NR.bfloat16() for name, module in adapter.modules.items()}
    save_file(tensors, folder / "lora.safetensors")
    assert "Mistral's default" in read_adapter(folder, LLAVA).notes[0]
    for scaling in (10**400, "2"):
        (folder / "params.json").write_text(json.dumps({"lora": {"scaling": scaling}}))
        with pytest.raises(CheckpointError, match=r"lora\.scaling is .* and must be a number below 1e\+09"):
            read_adapter(folder, LLAVA)
    (folder / "params.json").write_text(json.dumps({"lora": {"rank": 4, "scaling": 3.5}}))
    read = read_adapter(folder.parent, LLAVA)
    assert read.notes == ()
    assert read.counts(LLAVA) == "decoder 14/14, vision 0/14, adapter 0/2"
    assert {module.scale for module in read.modules.values()} == {3.5}
    assert torch.equal(read.modules["layers.0.attention.wk"].b_NR, tensors["layers.0.attention.wk.lora_B.weight"])
    write_mistral(random_adapter(LLAVA, decoder), tmp_path / "again", LLAVA)
    again = load_file(tmp_path / "again" / "lora.safetensors")
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())


def test_a_gguf_adapter_by_the_package_s_own_reader(tmp_path: Path) -> None:
    """llama.cpp: W + alpha / rank * lora_b @ lora_a, whatever the ranks."""
    adapter = random_adapter(LLAVA, decoder, scale=1.5)
    assert write_gguf_adapter(adapter, tmp_path / "a.gguf") == ()
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    told = {key: fields[key] for key in ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")}
    assert told == {
        "general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora", "adapter.lora.alpha": 6.0
    }  # fmt: skip
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    module = adapter.modules["layers.1.attention.wq"]
    assert torch.equal(tensors["blk.1.attn_q.weight.lora_a"], module.a_RK)
    assert torch.equal(tensors["blk.1.attn_q.weight.lora_b"], module.b_NR)
    assert len(tensors) == 28
    assert read_adapter(tmp_path / "a.gguf", LLAVA).digest == adapter.digest


def test_what_a_program_cannot_load_at_all_is_refused(tmp_path: Path) -> None:
    vision = random_adapter(LLAVA, lambda name: name.startswith("vision_encoder."))
    with pytest.raises(UsageError, match=r"llama\.cpp loads adapters of the decoder and head only"):
        write_gguf_adapter(vision, tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="merge the adapter"):
        write_mistral(vision, tmp_path / "a", LLAVA)
    assert list(tmp_path.iterdir()) == []


def test_differing_ranks_and_scales_are_folded(tmp_path: Path) -> None:
    one, other = (random_adapter(LLAVA, decoder, scale=scale, rank=rank) for scale, rank in ((2.0, 4), (0.3, 3)))
    modules = {name: (other if name.endswith("wq") else one).modules[name] for name in one.modules}
    mixed = LoraAdapter.of(modules, LLAVA, "mixed")
    write_gguf_adapter(mixed, tmp_path / "a.gguf")
    read = read_adapter(tmp_path / "a.gguf", LLAVA)
    assert {(module.rank, module.scale) for module in read.modules.values()} == {(4, 2.0)}
    for name, module in read.modules.items():
        torch.testing.assert_close(module.change(), modules[name].change(), rtol=1e-5, atol=1e-7)


def test_another_model_s_files_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type("model")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="not a LoRA adapter"):
        read_adapter(tmp_path / "a.gguf", LLAVA)
    save_file({"layers.9.attention.wq.lora_A.weight": torch.ones(4, 64)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="matches no linear of this model"):
        read_adapter(tmp_path / "lora.safetensors", LLAVA)
    save_file({"layers.0.attention.wq.lora_A.weight": torch.ones(4, 64)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="only the matrix A"):
        read_adapter(tmp_path / "lora.safetensors", LLAVA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no LoRA adapter; give a folder with adapter_config\.json"):
        read_adapter(tmp_path / "empty", LLAVA)


def test_ranks_beyond_the_limit_are_refused() -> None:
    wide = LowRank(torch.zeros(1025, 64), torch.zeros(96, 1025), 1.0)
    with pytest.raises(CheckpointError, match="rank 1025, and ranks of 1 to 1024"):
        LoraAdapter.of({"layers.0.attention.wq": wide}, LLAVA, "here")


def test_the_model_that_an_adapter_was_trained_for(tmp_path: Path) -> None:
    folder = write_peft_folder(
        tmp_path / "a", random_pairs({}), base_model_name_or_path="mistral-community/pixtral-12b"
    )
    assert base_of(folder) == "mistral-community/pixtral-12b"
    with pytest.raises(UsageError, match="does not say which model"):
        base_of(write_peft_folder(tmp_path / "b", random_pairs({})))
