"""Loading takes the model's own size and little more, measured by the kernel in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tessera.model.config import ModelConfig
from tessera.weights.fill import empty_model
from tessera.weights.safetensors import DTYPE_NAMES
from tests.weights.checkpoints import LLAVA, write_tokenizer

MEASURE = """
import gc, os, resource, sys
from pathlib import Path
import torch
from tests.loading import load_model
from tessera.weights.convert import convert

def peak():
    # ru_maxrss starts with the parent's peak; VmHWM, the same count, with this program's own.
    if os.path.exists("/proc/self/status"):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def load(folder, dtype):
    loaded = load_model(Path(folder), dtype=dtype, device="cpu")
    return sum(parameter.nbytes for parameter in loaded.model.parameters())

torch.set_num_threads(1)
tiny, model, hf, *dtypes = sys.argv[1:]
load(tiny, "auto")  # what the libraries take is not the question
base = peak()
convert(Path(model), Path(hf), "hf", max_shard_bytes=10**8)
print(peak() - base, 0)
# From small to large, since a peak never falls.
for folder, dtype in zip((hf, model), dtypes, strict=True):
    size = load(folder, dtype)
    gc.collect()
    print(peak() - base, size)
"""


def write_large_folder(folder: Path, num_bytes: int, dim: int) -> ModelConfig:
    """A checkpoint of about `num_bytes` in bfloat16, all zeros, written as a sparse file in no time."""
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


def measure(tmp_path: Path, num_bytes: int, dim: int, dtypes: tuple[str, str]) -> list[tuple[int, int]]:
    """(growth of the peak, bytes of the model) of converting, loading the result, and loading the original."""
    write_large_folder(tmp_path / "tiny", 500_000, 64)
    write_large_folder(tmp_path / "model", num_bytes, dim)
    folders = [str(tmp_path / name) for name in ("tiny", "model", "hf")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders, *dtypes], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return [(int(grown), int(size)) for grown, size in map(str.split, done.stdout.splitlines())]


def test_loading_takes_the_size_of_the_model_and_converting_a_few_tensors(tmp_path: Path) -> None:
    converted, same_dtype, wider = measure(tmp_path, 300_000_000, 1024, ("bfloat16", "float32"))
    assert converted[0] < 150_000_000
    assert same_dtype[1] > 280_000_000
    assert wider[1] == 2 * same_dtype[1]
    for grown, size in (same_dtype, wider):
        # On top come one read of 64 MiB, a few tensors, and what the C allocator keeps of the model before.
        assert size * 0.9 < grown < size + 200_000_000


@pytest.mark.slow
def test_loading_two_gigabytes_takes_at_most_500_megabytes_more(tmp_path: Path) -> None:
    converted, other_layout, same_layout = measure(tmp_path, 2_000_000_000, 2048, ("auto", "auto"))
    assert converted[0] < 300_000_000
    for grown, size in (other_layout, same_layout):
        assert size > 1_900_000_000
        assert size * 0.9 < grown < size + 500_000_000
