"""Checkpoints of 8-bit floats, such as Ministral 3's, are converted and quantized as the 16-bit model they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tessera.errors import UsageError
from tessera.kernels.quantized_weight import values_of
from tessera.model.config import ModelConfig
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.weights.convert import convert
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, TIED, same_bits
from tests.weights.test_published import LINEARS, write_official_fp8, write_published


@pytest.mark.parametrize(("name", "config"), [("fp8", LLAVA), ("ministral", TIED)], ids=["row", "matrix"])
def test_floats_of_8_bits_become_bfloat16(name: str, config: ModelConfig, tmp_path: Path) -> None:
    """Every converted matrix is what the loader computes with, rounded once; the rest is unchanged."""
    hf, _ = write_published(tmp_path, name, config)
    loaded = load_model(hf, device="cpu", dtype="float32").model
    convert(hf, tmp_path / "out", "mistral")
    assert "quantization" not in json.loads((tmp_path / "out" / "params.json").read_text())
    tensors = load_file(tmp_path / "out" / "consolidated.safetensors")
    for module in LINEARS:
        expected = values_of(loaded.get_submodule(module).quantized).bfloat16()
        assert same_bits(tensors.pop(f"{module}.weight"), expected), module
    for other, tensor in tensors.items():
        assert same_bits(tensor, loaded.get_parameter(other).data), other


def test_ministrals_fp8_is_converted_and_quantized_from_either_layout(tmp_path: Path) -> None:
    hf, _ = write_published(tmp_path, "ministral", TIED)
    write_official_fp8(tmp_path / "mistral")
    convert(hf, tmp_path / "one", "mistral")
    convert(tmp_path / "mistral", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "other", "mistral")
    convert(tmp_path / "mistral", tmp_path / "text", "gguf", kind="bf16")
    one, other = (load_file(tmp_path / each / "consolidated.safetensors") for each in ("one", "other"))
    text = load_model(tmp_path / "text" / "text.BF16.gguf", device="cpu", dtype="float32").model
    assert one.keys() == other.keys()
    assert all(same_bits(one[name], other[name]) for name in one)
    for name in LINEARS:
        assert torch.equal(text.get_parameter(f"{name}.weight").data, one[f"{name}.weight"].float())
    for folder in (hf, tmp_path / "mistral", tmp_path / "one"):
        quantize(folder, folder.with_suffix(".q4"), Options("4"), device="cpu")
    for file in sorted((tmp_path / "one.q4").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "quantized.q4" / file.name).read_bytes()
        assert file.read_bytes() == (tmp_path / "mistral.q4" / file.name).read_bytes()
    with pytest.raises(UsageError, match=r"in 8-bit floats already; use it as it is, or quantize it to 4 or 8 bits"):
        quantize(hf, tmp_path / "again", Options("fp8"), device="cpu")
    quantize(tmp_path / "one", tmp_path / "own", Options("fp8"), device="cpu")
    with pytest.raises(UsageError, match="quantized"):
        convert(tmp_path / "own", tmp_path / "back", "hf")
