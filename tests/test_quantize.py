"""`quantize`: whole folders that load as what they were within the error of their bits, or a clear refusal."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tessera.kernels.fp8_linear import dequantize_fp8
from tessera.kernels.packed_weight import dequantize
from tessera.load import describe, load_model
from tessera.quant.fp8 import Fp8Linear
from tessera.quant.linear import PackedLinear
from tessera.quantize import Options, Step, quantize
from tests.weights.checkpoints import CONFIGS, write_mistral_folder

WISHES = [Options(), Options("8", vision="8"), Options("fp8", "fp8", "fp8"), Options("8", "16"), Options("4", "4")]
# Of normally distributed weights in groups of 32: the root mean square of what rounding changes.
LARGEST_ERRORS = {"int4": 0.09, "int8": 0.01, "fp8": 0.03}


@pytest.mark.parametrize("options", WISHES, ids=lambda options: "-".join(dataclasses.astuple(options)))
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_loads_as_what_it_was(kind: str, options: Options, tmp_path: Path) -> None:
    original = write_mistral_folder(tmp_path / "a", CONFIGS[kind])
    steps: list[Step] = []
    manifest = quantize(tmp_path / "a", tmp_path / "q", options, watch=steps.append)
    assert [step.unit for step in steps] == ["vision", "layers.0", "layers.1", "outer"]
    model = load_model(tmp_path / "q", dtype="bfloat16", device="cpu").model
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear | Fp8Linear):
            packed = isinstance(module, PackedLinear)
            values = dequantize(module.packed) if packed else dequantize_fp8(module.fp8)
            record, matrix = manifest.linears[name], original[f"{name}.weight"].float()
            error = float((values - matrix).norm() / matrix.norm())
            assert record.weight_error == pytest.approx(error, rel=1e-3)
            assert error < LARGEST_ERRORS[record.scheme]
            seen.add(name)
    assert seen == manifest.linears.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, original[name])
    assert seen | {name.removesuffix(".weight") for name, _ in model.named_parameters()} >= {
        name.removesuffix(".weight") for name in original
    }
    summary, before = describe(tmp_path / "q"), describe(tmp_path / "a")
    assert summary.parameters == before.parameters
    assert sum(summary.quantized.values()) == len(seen)
    files = sum(file.stat().st_size for file in (tmp_path / "q").glob("*.safetensors"))
    assert summary.stored_bytes <= files < summary.stored_bytes + 4 * 8192
    if options == Options():
        # 4.5 bits for each weight of the layers, 8.5 for the head's.
        layers = sum(t.numel() for n, t in original.items() if n.startswith("layers.") and t.ndim == 2)
        head = math.prod(original["output.weight"].shape)
        saved = layers * (16 - 4.5) / 8 + head * (16 - 8.5) / 8
        assert before.stored_bytes - summary.stored_bytes == saved
