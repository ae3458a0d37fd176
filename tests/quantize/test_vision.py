"""The vision side in 8 bits at load: the weights that `quantize` writes, named errors, and a refusal by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tessera.errors import UsageError
from tessera.linears.quantized import QuantizedLinear
from tessera.lora.attach import attach
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.quantize.vision import check_vision_bits, round_vision
from tests.loading import load_model
from tests.lora.adapters import random_adapter
from tests.weights.checkpoints import LLAVA, write_mistral_folder


def rounded(model: Pixtral) -> dict[str, QuantizedLinear]:
    return {name: each for name, each in model.named_modules() if isinstance(each, QuantizedLinear)}


def test_rounding_at_load_gives_the_weights_that_quantize_writes(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", LLAVA)
    quantize(tmp_path / "a", tmp_path / "q", Options("8", vision="8"))
    model = load_model(tmp_path / "a", dtype="bfloat16", device="cpu").model
    (note,) = round_vision(model, "8")
    assert "8 bits" in note
    stored = rounded(load_model(tmp_path / "q", dtype="bfloat16", device="cpu").model)
    found = rounded(model)
    assert found.keys() == {name for name in stored if name.startswith("vision")}
    assert found
    for name, linear in found.items():
        for field, tensor in linear.quantized.tensors.items():
            assert torch.equal(tensor, stored[name].quantized.tensors[field])


def test_only_an_encoder_in_8_bits_attends_in_8_bits(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", LLAVA)
    model = load_model(tmp_path / "a", dtype="bfloat16", device="cpu").model
    assert not model.vision_encoder.plan([(2, 3)]).in_8_bits
    round_vision(model, "8")
    assert model.vision_encoder.plan([(2, 3)]).in_8_bits


def test_what_is_quantized_already_stays(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", LLAVA)
    quantize(tmp_path / "a", tmp_path / "q", Options("8", vision="8"))
    assert round_vision(load_model(tmp_path / "q", dtype="bfloat16", device="cpu").model, "8") == ()


def test_an_adapter_on_the_vision_side_is_refused(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", LLAVA)
    model = load_model(tmp_path / "a", dtype="bfloat16", device="cpu").model
    attach(model, random_adapter(model.config), Shard(model.config, 0, 1))
    with pytest.raises(UsageError, match="merge the adapter"):
        round_vision(model, "8")


@pytest.mark.parametrize(
    ("bits", "ranks", "words"), [("4", 1, "vision_bits is '4'; use 16 or 8"), ("8", 2, "2 processes share the model")],
    ids=["bits", "ranks"],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(bits: str, ranks: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_vision_bits(bits, ranks)
