"""A GGUF model is the model it was made of, whoever wrote it; what does not belong is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera import load
from tessera.kernels.packed_weight import dequantize
from tessera.quant.linear import PackedLinear
from tessera.weights.gguf.names import to_gguf_name
from tessera.weights.stream import empty_model
from tests.weights.checkpoints import LLAVA, MERGED, tensors_of
from tests.weights.gguf.files import encode, gguf_name, write_pair


def values_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor as float32, packed ones dequantized."""
    values = {name: parameter.data.float() for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            values[f"{name}.weight"] = dequantize(module.packed)
    return values


@pytest.mark.parametrize("config", [LLAVA, MERGED], ids=["plain", "merged"])
def test_names_are_those_of_the_packages_tables(config: Any) -> None:
    for name, _ in empty_model(config).named_parameters():
        assert to_gguf_name(name) == gguf_name(name, config)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_every_value_is_what_the_package_says(kind: Kind, tmp_path: Path) -> None:
    tensors = tensors_of(LLAVA, torch.float32)
    loaded = load.load_model(write_pair(tmp_path, kind, picture_kind=Kind.F16), device="cpu", dtype="float32")
    values = values_of(loaded.model)
    assert values.keys() == tensors.keys()
    assert loaded.config == dataclasses.replace(LLAVA, max_seq_len=131_072)  # not the file's 1,024,000
    row = LLAVA.vision_encoder.image_break_token_id
    for name, tensor in tensors.items():
        used = Kind.F16 if to_gguf_name(name).startswith(("v.", "mm.")) else kind
        expected = tensor
        if tensor.ndim == 2:
            expected = torch.from_numpy(gguf.quants.dequantize(encode(tensor, used), used)).clone()
        if name == "tok_embeddings.weight" and kind not in (Kind.F32, Kind.F16, Kind.BF16):
            expected[row] = tensor[row]  # unrounded, from the picture part
        assert torch.equal(values[name], expected), name
