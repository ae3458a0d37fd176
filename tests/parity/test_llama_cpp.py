"""A GGUF pair gives the same in llama.cpp: tokens, logits, image embeddings, replies.

It needs an interpreter with llama-cpp-python, which is for comparison only and no dependency:
LLAMA_CPP_PYTHON names it (0.3.36 was used), else this one is tried.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from PIL import Image as PILImage

from tessera import load
from tessera.images import prepare
from tessera.messages import Image, parse_message
from tessera.model.attention import DensePlan
from tessera.weights.convert import convert
from tessera.weights.gguf.header import read_header
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA
from tests.weights.gguf.files import write_pair

PYTHON = os.environ.get("LLAMA_CPP_PYTHON", sys.executable)
PEER = Path(__file__).with_name("llama_cpp_peer.py")
TEXT = "The total is 12.50 and Grüße, [IMG] 東京\n\n  for 7 pieces."


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    if subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False).returncode:
        pytest.skip(
            f"llama-cpp-python is not installed for {PYTHON}; LLAMA_CPP_PYTHON names an interpreter that has it"
        )


@dataclass
class Both:
    """What llama.cpp says, and the same of ours."""

    theirs: Any
    tokens: list[int]
    logits: np.ndarray[Any, Any]
    embeddings: np.ndarray[Any, Any]
    reply: list[int]


def run_both(file: Path, image: PILImage.Image, folder: Path) -> Both:
    loaded = load_model(file, device="cpu", dtype="float32")
    model, vision = loaded.model, loaded.config.vision_encoder
    prepared = prepare(image, vision)
    question = parse_message({"role": "user", "content": [Image(image), "What is the value of Rome?"]})
    prompt = loaded.tokenizer.encode_chat([question], [prepared])
    (span,) = prompt.images
    tokens = loaded.tokenizer.encode_text(TEXT)
    np.savez(
        folder / "given.npz",
        text=TEXT.encode(),
        ids=tokens,
        pixels=np.asarray(image),
        before=prompt.ids[: span.start],
        after=prompt.ids[span.start + span.length :],
    )
    command = [PYTHON, PEER, file, file.with_name(f"mmproj-{file.name.split('.')[0]}.gguf"), *_exchange(folder)]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs = np.load(folder / "wanted.npz")
    with torch.inference_mode():
        (features,) = model.encode_images([prepared.pixels_CHW])
        rows, columns = prepared.grid
        broken = model.tok_embeddings.weight[vision.image_break_token_id].expand(rows, 1, -1)
        embeddings = torch.cat([features.view(rows, columns, -1), broken], dim=1).flatten(0, 1)[:-1]
        ids, reply = list(prompt.ids), []
        for _ in theirs["reply"]:
            hidden = model(model.embed(torch.tensor(ids), [features]), DensePlan([len(ids)]))
            reply.append(int(model.logits(hidden[-1:]).argmax()))
            ids.append(reply[-1])
        logits = model.logits(model(model.embed(torch.tensor(tokens), []), DensePlan([len(tokens)])))
    return Both(theirs, tokens, logits.numpy(), embeddings.numpy(), reply)


def _exchange(folder: Path) -> list[Path]:
    return [folder / "given.npz", folder / "wanted.npz"]


def relative(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference over that of the values."""
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def test_random_weights_in_float32(tmp_path: Path) -> None:
    """Written by the gguf package. A wrong order of rotary channels, of rows or of patches would be far off."""
    image = PILImage.effect_noise((64, 48), 80).convert("RGB")
    both = run_both(write_pair(tmp_path, Kind.F32), image, tmp_path)
    assert both.theirs["tokens"].tolist() == both.tokens
    # llama.cpp keeps keys, values and the images' patches in float16.
    assert relative(both.logits, both.theirs["logits"]) < 1e-3
    assert relative(both.embeddings, both.theirs["embeddings"]) < 1e-3
    assert both.reply == both.theirs["reply"].tolist()


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
def test_nano_as_written_here(kind: str, tmp_path: Path) -> None:
    convert(load.find_model("nano"), tmp_path / "nano", "gguf", kind=kind)
    image = PILImage.open(load.BUNDLED_FOLDER.parent / "demo" / "chart.png").convert("RGB").resize((512, 384))
    both = run_both(tmp_path / "nano" / f"nano.{kind.upper()}.gguf", image, tmp_path)
    assert both.theirs["tokens"].tolist() == both.tokens
    # llama.cpp rounds the inputs of products to bfloat16, or to 8 bits with the quantized types.
    assert relative(both.logits, both.theirs["logits"]) < (0.01 if kind == "bf16" else 0.03)
    assert relative(both.embeddings, both.theirs["embeddings"]) < 0.01
    assert both.reply == both.theirs["reply"].tolist()


QUANTIZE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3]), 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""
WIDE = dataclasses.replace(LLAVA, dim=256, head_dim=64, hidden_dim=512, n_layers=4)


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q5_K_M", "Q3_K_M", "IQ4_XS"])
def test_files_that_llama_cpp_quantized(kind: str, tmp_path: Path) -> None:
    """As the community's files are made: a mixture of types that llama.cpp chooses."""
    whole = write_pair(tmp_path, Kind.F32, config=WIDE)
    file = tmp_path / f"tiny.{kind}.gguf"
    command = [PYTHON, "-c", QUANTIZE, str(whole), str(file), kind]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    both = run_both(file, PILImage.effect_noise((64, 48), 80).convert("RGB"), tmp_path)
    assert relative(both.logits, both.theirs["logits"]) < 0.03
    assert relative(both.embeddings, both.theirs["embeddings"]) < 1e-3
    assert {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q3_K_M": "Q3_K", "IQ4_XS": "IQ4_XS"}[kind] in {
        entry.kind.name for entry in read_header(file).tensors.values()
    }
