"""Loading takes the model's own size and little more, measured by the kernel in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tessera.model.config import ModelConfig
from tessera.weights.convert import convert
from tests.weights.checkpoints import LLAVA, write_tokenizer

# ru_maxrss is in KiB on Linux, in bytes on macOS.
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
LOAD = """
import resource, sys
from pathlib import Path
import torch
from tessera.load import load_model
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_model(Path(sys.argv[1]), device="cpu")  # a tiny one first: what the libraries take is not the question
before = peak()
loaded = load_model(Path(sys.argv[2]), dtype=sys.argv[3], device="cpu")
size = sum(p.nbytes for p in loaded.model.parameters())
print(peak() - before, size, flush=True)
"""
CONVERT = """
import resource, sys
from pathlib import Path
from tessera.weights.convert import convert
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
convert(Path(sys.argv[1]), Path(sys.argv[2]), "hf")
print(peak() - before, flush=True)
"""


def write_large_folder(folder: Path, num_bytes: int, dim: int) -> ModelConfig:
    """A checkpoint of about `num_bytes` in bfloat16, all zeros, written as a sparse file in no time."""
    import dataclasses

    from tessera.weights.stream import DTYPE_NAMES, empty_model

    layer_parameters = dim * (2 * dim + 2 * dim // 2 + 3 * 4 * dim)
    config = dataclasses.replace(
        LLAVA,
        dim=dim,
        n_heads=8,
        n_kv_heads=4,
        head_dim=dim // 8,
        hidden_dim=4 * dim,
        n_layers=num_bytes // 2 // layer_parameters,
    )
    folder.mkdir()
    header, end = {}, 0
    for name, tensor in empty_model(config).named_parameters():
        start, end = end, end + tensor.numel() * 2
        header[name] = {
            "dtype": DTYPE_NAMES[torch.bfloat16],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    with (folder / "consolidated.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "params.json").write_text(json.dumps(config.to_params()))
    write_tokenizer(folder / "tekken.json")
    return config


def run(program: str, *arguments: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def measure_loading(tmp_path: Path, folder: Path, dtype: str) -> tuple[int, int]:
    write_large_folder(tmp_path / "tiny", 500_000, 64)
    grown, size = run(LOAD, str(tmp_path / "tiny"), str(folder), dtype)
    return grown * MAXRSS_BYTES, size


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_takes_the_size_of_the_model(dtype: str, tmp_path: Path) -> None:
    write_large_folder(tmp_path / "model", 300_000_000, 1024)
    grown, size = measure_loading(tmp_path, tmp_path / "model", dtype)
    assert size > (280_000_000 if dtype == "bfloat16" else 560_000_000)
    # One read of 64 MiB where it converts, and what the allocator keeps.
    assert size * 0.9 < grown < size + 120_000_000


def test_loading_the_other_layout_takes_no_more(tmp_path: Path) -> None:
    write_large_folder(tmp_path / "model", 300_000_000, 1024)
    convert(tmp_path / "model", tmp_path / "hf", "hf", max_shard_bytes=100_000_000)
    grown, size = measure_loading(tmp_path, tmp_path / "hf", "bfloat16")
    assert grown < size + 120_000_000


def test_converting_takes_a_small_part_of_the_model(tmp_path: Path) -> None:
    write_large_folder(tmp_path / "model", 300_000_000, 1024)
    (grown,) = run(CONVERT, str(tmp_path / "model"), str(tmp_path / "hf"))
    assert grown * MAXRSS_BYTES < 150_000_000


@pytest.mark.slow
def test_loading_two_gigabytes_takes_at_most_500_megabytes_more(tmp_path: Path) -> None:
    write_large_folder(tmp_path / "model", 2_000_000_000, 2048)
    grown, size = measure_loading(tmp_path, tmp_path / "model", "auto")
    assert size > 1_900_000_000
    assert grown < size + 500_000_000


def test_the_measure_sees_memory_that_is_touched() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.ones(before * MAXRSS_BYTES // 4 + 50_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > before
