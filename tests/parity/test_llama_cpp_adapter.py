"""llama.cpp computes with the GGUF adapters that are written here as we do: logits and greedy replies.

It needs an interpreter with llama-cpp-cffi, a build of llama.cpp for comparison only and no dependency:
LLAMA_CPP_CFFI_PYTHON names it (0.4.42, of April 2025, was used), else this one is tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.attach import attach
from tessera.lora.files import read_adapter
from tessera.lora.gguf_files import write_gguf_adapter
from tessera.model.attention import DensePlan
from tessera.weights.fill import linear_shapes
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA
from tests.weights.gguf.files import write_pair

PYTHON = os.environ.get("LLAMA_CPP_CFFI_PYTHON", sys.executable)
PEER = Path(__file__).with_name("llama_cpp_adapter_peer.py")
IDS = [1, 1010, 1100, 1042, 1077, 1200, 1015]


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    loaded = f"import sys; sys.path.insert(0, {str(PEER.parent)!r}); import {PEER.stem}; {PEER.stem}.library()"
    if subprocess.run([PYTHON, "-c", loaded], capture_output=True, check=False).returncode:
        pytest.skip(f"llama-cpp-cffi does not load in {PYTHON}; LLAMA_CPP_CFFI_PYTHON names an interpreter that has it")


def mixed_adapter(parts: tuple[str, ...]) -> LoraAdapter:
    """An adapter whose ranks and scales differ by linear."""
    dice = torch.Generator().manual_seed(5)
    modules = {}
    for number, (name, (rows, columns)) in enumerate(linear_shapes(LLAVA).items()):
        rank = 2 + number % 3
        a_RK, b_NR = (torch.randn(*size, generator=dice) * 0.1 for size in ((rank, columns), (rows, rank)))
        modules[name] = LowRank(a_RK, b_NR, 0.5 + number % 4)
    return LoraAdapter.of(modules, LLAVA, "mixed").only(parts)


@torch.inference_mode()
@pytest.mark.parametrize("parts", [("decoder",), ("head",), ("decoder", "head")], ids=" ".join)
def test_llama_cpp_computes_with_our_adapter(parts: tuple[str, ...], tmp_path: Path) -> None:
    file = write_pair(tmp_path, Kind.F32)
    write_gguf_adapter(mixed_adapter(parts), tmp_path / "adapter.gguf")
    np.savez(tmp_path / "given.npz", ids=IDS, vocab=LLAVA.vocab_size)
    command = [PYTHON, PEER, file, tmp_path / "adapter.gguf", tmp_path / "given.npz", tmp_path / "wanted.npz"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs = np.load(tmp_path / "wanted.npz")
    loaded = load_model(file, device="cpu", dtype="float32")
    assert _far(_logits(loaded.model, IDS), theirs["before"]) < 1e-3
    attach(loaded.model, read_adapter(tmp_path / "adapter.gguf", loaded.config))
    # llama.cpp keeps keys and values in float16.
    assert _far(_logits(loaded.model, IDS), theirs["after"]) < 1e-3
    assert _far(theirs["before"], theirs["after"]) > 0.03
    reply: list[int] = []
    for _ in theirs["reply"]:
        reply.append(int(_logits(loaded.model, [*IDS, *reply])[-1].argmax()))
    assert reply == theirs["reply"].tolist()


def _logits(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    logits: torch.Tensor = model.logits(model(model.embed(torch.tensor(ids), []), DensePlan([len(ids)])))
    return logits.numpy()


def _far(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference over that of the values."""
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
