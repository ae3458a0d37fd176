"""What is wrong with a file is found in its header, and told with the file, the value and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.errors import CheckpointError
from tessera.weights.convert import convert
from tessera.weights.safetensors import READ_BYTES, stored_tensors
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, edit_json, edit_tensors, same_bits, write_mistral_folder

WQ = "layers.0.attention.wq.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mistral_folder(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def weights(folder: Path) -> Path:
    return folder / "consolidated.safetensors"


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(file: Path, header: bytes | dict[str, Any], data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, device="cpu")
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_values_are_those_of_the_safetensors_library(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 5).to(dtype),
        "scalar": torch.tensor(2.5).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "four": torch.randn(2, 1, 3, 2).to(dtype),
    }
    save_file(tensors, tmp_path / "file.safetensors", {"format": "pt"})
    stored = stored_tensors([tmp_path / "file.safetensors"])
    assert stored.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert torch.equal(stored[name].read(), expected)
        assert stored[name].read().dtype == dtype
        assert b"".join(stored[name].chunks()) == expected.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_a_tensor_larger_than_one_read_is_whole_in_every_dtype(tmp_path: Path) -> None:
    # One and a half reads, so that the second piece is shorter than the first.
    large = torch.arange(READ_BYTES * 3 // 4, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    save_file({"first": torch.ones(3), "large": large}, tmp_path / "file.safetensors")
    stored = stored_tensors([tmp_path / "file.safetensors"])["large"]
    assert same_bits(stored.read(), large)
    converted = torch.empty(large.shape, dtype=torch.float32)
    stored.read_into(converted)
    assert same_bits(converted, large.float())
    assert sum(map(len, stored.chunks())) == large.nbytes


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(folder: Path, weights: Path) -> None:
    loaded = load_model(folder, dtype="float16", device="cpu")
    assert not loaded.model.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.model.parameters())
    expected = load_file(weights)
    for name, parameter in loaded.model.named_parameters():
        assert same_bits(parameter.data, expected[name].half()), name


def test_several_consolidated_files_are_one_model(folder: Path, weights: Path) -> None:
    expected = load_file(weights)
    names = sorted(expected)
    weights.unlink()
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: expected[name] for name in part}, folder / f"consolidated-{number:05}-of-00002.safetensors")
    for name, parameter in load_model(folder, dtype="bfloat16", device="cpu").model.named_parameters():
        assert same_bits(parameter.data, expected[name]), name


def test_a_missing_tensor(folder: Path, weights: Path) -> None:
    edit_tensors(weights, **{WQ: None, "norm.weight": None})
    assert f"{folder}: 2 of the model's 45 tensors are missing, first {WQ!r}" in refusal(folder)
    assert "download it again" in refusal(folder)


def test_an_unexpected_tensor(folder: Path, weights: Path) -> None:
    edit_tensors(weights, **{"layers.0.attention.wq.lora_A.weight": torch.zeros(2, 2)})
    message = refusal(folder)
    assert f"{weights} holds 'layers.0.attention.wq.lora_A.weight'" in message
    assert "use those of one model" in message


def test_a_tensor_of_another_shape(folder: Path, weights: Path) -> None:
    edit_tensors(weights, **{WQ: torch.zeros(96, 32)})
    assert f"{weights}: {WQ!r} has the shape (96, 32), the config asks for (96, 64)" in refusal(folder)


def test_a_config_of_another_model(folder: Path, weights: Path) -> None:
    edit_json(folder / "params.json", n_layers=3)
    assert f"9 of the model's {45 + 9} tensors are missing, first 'layers.2." in refusal(folder)
    edit_json(folder / "params.json", n_layers=1)
    assert "(one of 9 such tensors)" in refusal(folder)


def test_a_tensor_in_two_files(folder: Path, weights: Path) -> None:
    second = folder / "consolidated.01.safetensors"
    save_file({WQ: torch.zeros(96, 64)}, second)
    message = refusal(folder)
    assert repr(WQ) in message
    assert second.name in message
    assert weights.name in message
    assert "remove the files" in message


def test_a_file_cut_short(folder: Path, weights: Path) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    message = refusal(folder)
    assert message == (
        f"{weights} is cut short: it should have {len(whole):,} bytes and has {len(whole) - 100:,}; download it again."
    )


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_without_a_header(size: int, folder: Path, weights: Path) -> None:
    weights.write_bytes(b"\0" * size)
    assert str(weights) in refusal(folder)
    assert "download it again" in refusal(folder)


def test_a_header_longer_than_the_file_or_the_limit(folder: Path, weights: Path) -> None:
    header, data = header_of(weights)
    for length in (10**6, 2**62):
        write_raw(weights, header, data, length=length)
        message = refusal(folder)
        assert f"{length:,} bytes of header" in message
        assert str(weights) in message


def test_a_header_that_is_not_json(folder: Path, weights: Path) -> None:
    for text in (b"{broken", b"[1, 2]", b"\xff\xfe{}", b"[" * 100_000):
        write_raw(weights, text, b"")
        assert f"{weights} is not a whole safetensors file: its header is not a JSON object" in refusal(folder)


def test_a_name_twice_in_one_header(folder: Path, weights: Path) -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    write_raw(weights, f'{{"a":{entry},"a":{entry}}}'.encode(), b"\0" * 4)
    assert "its header has a name twice" in refusal(folder)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"shape": [1], "data_offsets": [0, 4]}, "lacks dtype, shape or data_offsets of 'a'"),
        ({"dtype": "F32", "shape": 7, "data_offsets": [0, 4]}, "lacks dtype, shape or data_offsets of 'a'"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}, "lacks dtype, shape or data_offsets of 'a'"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "the shape (-1,)"),
        ({"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}, "the shape (1.5,)"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "the shape (True,)"),
        ({"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}, "the shape ('1',)"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "the bytes -4 to 0"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "'a' has 4 bytes for the shape (2,) in F32"),
        ({"dtype": "F32", "shape": [10**18], "data_offsets": [0, 4]}, "'a' has 4 bytes for the shape"),
        ({"dtype": "F32", "shape": [2**40] * 3, "data_offsets": [0, 4]}, "'a' has 4 bytes for the shape"),
        ({"dtype": "F32", "shape": [10**30], "data_offsets": [0, 4]}, "the shape (1000"),
        ({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, "the shape (0, 9223372036854775808)"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "'a' has 9 dimensions and may have 8"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [10**4299, 10**4299 + 4]}, "and the bytes 1000"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "'a' starts at byte"),
        ({"dtype": "I16", "shape": [4], "data_offsets": [0, 4]}, "'a' is stored as I16"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "'a' is stored as ['F32']"),
        ("F32", "lacks dtype, shape or data_offsets of 'a'"),
    ],
)
def test_a_damaged_header_entry(entry: Any, words: str, folder: Path, weights: Path) -> None:
    write_raw(weights, {"a": entry}, b"\0" * 8)
    message = refusal(folder)
    assert words in message
    assert str(weights) in message


def test_bytes_that_no_tensor_owns(folder: Path, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"extra")
    assert f"has {weights.stat().st_size:,} bytes and its header accounts for" in refusal(folder)


def test_two_tensors_on_the_same_bytes(folder: Path, weights: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    write_raw(weights, {"a": entry, "b": entry}, b"\0" * 4)
    assert "'b' starts at byte" in refusal(folder)


def test_a_git_lfs_pointer(folder: Path, weights: Path) -> None:
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 25365250080\n")
    assert refusal(folder) == (f"{weights} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder.")


def test_a_shard_that_is_absent(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "hf", "hf", max_shard_bytes=100_000)
    lost = sorted((tmp_path / "hf").glob("model-*.safetensors"))[1]
    lost.unlink()
    for _ in range(2):  # with the index, and told by the names alone
        message = refusal(tmp_path / "hf")
        assert lost.name in message
        assert "tessera download" in message
        (tmp_path / "hf" / "model.safetensors.index.json").unlink(missing_ok=True)


def test_a_file_that_changes_while_it_is_read(weights: Path) -> None:
    stored = stored_tensors([weights])
    last = max(stored.values(), key=lambda tensor: tensor.start)
    weights.write_bytes(weights.read_bytes()[: last.start + 2])
    with pytest.raises(CheckpointError, match="is cut short"):
        last.read()
    with pytest.raises(CheckpointError, match="is cut short"):
        list(last.chunks())
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"could not be read \(No such file or directory\)"):
        last.read()


def test_progress_counts_to_the_whole(folder: Path, weights: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    load_model(folder, device="cpu", progress=lambda *call: calls.append(call))
    total = sum(tensor.nbytes for tensor in load_file(weights).values())
    assert len(calls) == 45
    assert calls[-1][1:] == (total, total)
    assert LLAVA.n_layers == 2
