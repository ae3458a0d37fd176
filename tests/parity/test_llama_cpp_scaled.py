"""llama.cpp's architecture `mistral3` computes what we compute: YaRN, scaled queries and the tied head, far beyond 16.

It needs an interpreter with cyllama, which is for comparison only and no dependency: CYLLAMA_PYTHON names it (0.2.18
was used), else this one is tried.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.model.attention import DensePlan
from tests.loading import load_model
from tests.weights.checkpoints import TIED, tensors_of
from tests.weights.gguf.files import write_pair

PYTHON = os.environ.get("CYLLAMA_PYTHON", sys.executable)
PEER = Path(__file__).with_name("llama_cpp_scaled_peer.py")
LOUDER = {".wq.": 5.0, ".wk.": 5.0, ".wv.": 4.0, ".wo.": 4.0}  # so that attention decides
IDS = [1, *(1000 + 7 * place % 280 for place in range(199))]


@torch.inference_mode()
def test_a_scaled_model_with_a_tied_head(tmp_path: Path) -> None:
    if subprocess.run([PYTHON, "-c", "import cyllama"], capture_output=True, check=False).returncode:
        pytest.skip(f"cyllama is not installed for {PYTHON}; CYLLAMA_PYTHON names an interpreter that has it")
    tensors = tensors_of(TIED, torch.float32)
    for part, factor in LOUDER.items():
        tensors |= {name: each * factor for name, each in tensors.items() if name[:6] == "layers" and part in name}
    file = write_pair(tmp_path, config=TIED, tensors=tensors)
    np.savez(tmp_path / "given.npz", ids=IDS, vocab=TIED.vocab_size)
    command = [PYTHON, PEER, file, tmp_path / "given.npz", tmp_path / "wanted.npz"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs_TV = torch.from_numpy(np.load(tmp_path / "wanted.npz")["logits"])
    model = load_model(file, device="cpu", dtype="float32").model

    def far(**changes: None) -> float:
        """Root mean square of the difference over that of the values, of a model without these settings."""
        model.config = dataclasses.replace(TIED, **changes)
        ours_TV = model.logits(model(model.embed(torch.tensor(IDS), []), DensePlan([len(IDS)])))
        return float((ours_TV - theirs_TV).norm() / theirs_TV.norm())

    # llama.cpp keeps keys and values in float16; measured 0.0010, 0.0060 and 0.016.
    assert far() < 0.002
    assert far(llama_4_scaling=None) > 0.004
    assert far(llama_4_scaling=None, yarn=None) > 0.01
