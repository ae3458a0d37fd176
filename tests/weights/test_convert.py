"""Both layouts hold the same model, bit for bit: there and back is identity, and nothing is overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tessera.errors import CheckpointError, UsageError
from tessera.weights.convert import convert
from tests.cli.commands import run
from tests.loading import load_model
from tests.weights.checkpoints import CONFIGS, same_bits, write_mistral_folder


def files_of(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", CONFIGS)
def test_there_and_back_is_identity(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a", CONFIGS[kind], dtype)
    convert(tmp_path / "a", tmp_path / "hf", "hf", max_shard_bytes=100_000)
    convert(tmp_path / "hf", tmp_path / "b", "mistral")
    back = load_file(tmp_path / "b" / "consolidated.safetensors")
    assert back.keys() == original.keys()
    assert all(same_bits(back[name], original[name]) for name in original)
    for name in ("params.json", "tekken.json"):
        assert json.loads((tmp_path / "a" / name).read_text()) == json.loads((tmp_path / "b" / name).read_text())
    assert files_of(tmp_path / "b") == {"consolidated.safetensors", "params.json", "tekken.json"}


def test_unusual_values_keep_their_bits(tmp_path: Path) -> None:
    from tests.weights.checkpoints import edit_tensors

    original = write_mistral_folder(tmp_path / "a")
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # every bfloat16, NaNs included
    special = original["layers.0.attention.wq.weight"].clone()
    special.view(torch.int16).view(-1).copy_(bits[: special.numel()])
    edit_tensors(tmp_path / "a" / "consolidated.safetensors", **{"layers.0.attention.wq.weight": special})
    convert(tmp_path / "a", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "b", "mistral")
    back = load_file(tmp_path / "b" / "consolidated.safetensors")
    assert same_bits(back["layers.0.attention.wq.weight"], special)


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_layouts_load_to_the_same_module(kind: str, tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a", CONFIGS[kind])
    convert(tmp_path / "a", tmp_path / "hf", "hf")
    for dtype in ("bfloat16", "auto"):
        one, other = (load_model(tmp_path / name, dtype=dtype, device="cpu") for name in ("a", "hf"))
        assert one.config == other.config == CONFIGS[kind]
        parameters = dict(other.model.named_parameters())
        for name, parameter in one.model.named_parameters():
            expected = original[name].to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
            assert same_bits(parameter.data, expected), name
            assert same_bits(parameters[name].data, expected), name


def test_shards_are_complete_and_within_their_limit(tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "hf", "hf", max_shard_bytes=100_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert sorted(set(index["weight_map"].values())) == [file.name for file in shards]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in original.values())
    for file in shards:
        tensors = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in tensors)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 100_000
    assert len(index["weight_map"]) == len(original)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a")
    calls: list[tuple[str, int, int]] = []
    convert(tmp_path / "a", tmp_path / "hf", "hf", progress=lambda *call: calls.append(call))
    total = sum(tensor.nbytes for tensor in original.values())
    done = [call[1] for call in calls]
    assert len(calls) == len(original)
    assert done == sorted(done)
    assert done[-1] == total
    assert {call[2] for call in calls} == {total}


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"taken.*nothing is overwritten"):
        convert(tmp_path / "a", taken, "hf")
    with pytest.raises(UsageError, match="is the source itself"):
        convert(tmp_path / "a", tmp_path / "a" / ".." / "a", "hf")
    with pytest.raises(UsageError, match=r"layout mistral already.*convert it to hf"):
        convert(tmp_path / "a", tmp_path / "b", "mistral")
    with pytest.raises(UsageError, match=r"'onnx' is unknown; use mistral, hf, gguf"):
        convert(tmp_path / "a", tmp_path / "b", "onnx")
    assert files_of(taken) == {"notes.txt"}
    assert not (tmp_path / "b").exists()


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a")
    seen: list[str] = []

    def stop(name: str, done: int, total: int) -> None:
        seen.append(name)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "a", tmp_path / "b", "hf", progress=stop)
    assert not (tmp_path / "b").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "tekken.json").unlink()
    with pytest.raises(CheckpointError, match=r"tekken\.json"):
        convert(tmp_path / "a", tmp_path / "empty", "hf")
    assert files_of(tmp_path / "empty") == set()


def test_a_disk_too_small_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mistral_folder(tmp_path / "a")
    monkeypatch.setattr("tessera.weights.write.free_disk_bytes", lambda folder: 1000)
    with pytest.raises(UsageError, match=r"the files take \d+\.\d\d MB and 0\.00 MB is free"):
        convert(tmp_path / "a", tmp_path / "b", "hf")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "command", [("convert", "--to", "hf"), ("convert", "--to", "gguf"), ("quantize",)], ids=" ".join
)
def test_a_disk_that_ends_meanwhile_is_named(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A limit on files' sizes stands for a quota or a full disk: each is met only while the file is written."""
    resource = pytest.importorskip("resource", reason="limits on files are Unix's")
    write_mistral_folder(tmp_path / "a", CONFIGS["llava"])
    name, *options = command
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = run(monkeypatch, name, str(tmp_path / "a"), str(tmp_path / "b"), *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert code == 1
    assert re.search(r"error: \S+b\S*: the files could not be written whole \(file too large\); free", said)
    assert "report" not in said
