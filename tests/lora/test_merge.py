"""Merging: the change is added to the weights that were named, full or quantized, and to no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tessera.errors import UsageError
from tessera.kernels.quantized_weight import QuantizedWeight, values_of
from tessera.lora.adapter import LoraAdapter
from tessera.lora.merge import merge
from tessera.lora.peft import write_peft
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.weights.checkpoint import open_checkpoint
from tests.lora.adapters import random_adapter
from tests.weights.checkpoints import LLAVA, write_mistral_folder, write_tokenizer

WQ = "layers.1.attention.wq"


@pytest.fixture
def adapter(tmp_path: Path) -> LoraAdapter:
    adapter = random_adapter(LLAVA, lambda name: name.endswith(("wq", "w2", "w_in")))
    write_peft(adapter, tmp_path / "adapter", LLAVA)
    return adapter


def base(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    tensors = write_mistral_folder(folder, dtype=dtype)
    write_tokenizer(folder / "tekken.json")
    return tensors


def test_the_full_weights_change_by_the_product_and_one_rounding(tmp_path: Path, adapter: LoraAdapter) -> None:
    before = base(tmp_path / "base")
    merged = merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "out", "mistral")
    assert (merged.counts, merged.base, merged.dtype) == (
        "decoder 4/14, vision 4/14, adapter 1/2", "full", torch.bfloat16
    )  # fmt: skip
    after = load_file(tmp_path / "out" / "consolidated.safetensors")
    for name, tensor in before.items():
        module = adapter.modules.get(name.removesuffix(".weight"))
        change = 0.0 if module is None else 2.0 * module.b_NR @ module.a_RK
        assert torch.equal(after[name], (tensor.float() + change).bfloat16())


@pytest.mark.parametrize("into", ["mistral", "gguf"])
def test_the_values_of_quantized_weights_change(tmp_path: Path, adapter: LoraAdapter, into: str) -> None:
    base(tmp_path / "base")
    quantize(tmp_path / "base", tmp_path / "packed", Options("4", "8", "16"))
    packed = open_checkpoint(tmp_path / "packed")
    expected = values_of(packed.linears[WQ].load()) + adapter.modules[WQ].change()
    kind = "bf16" if into == "gguf" else None
    merged = merge(tmp_path / "adapter", tmp_path / "packed", tmp_path / "out", into, base="quantized", kind=kind)
    assert merged.base == "quantized"
    found = next((tmp_path / "out").glob("out.*.gguf"), tmp_path / "out")
    out = open_checkpoint(found)
    assert not out.is_quantized
    assert torch.equal(out.sources[f"{WQ}.weight"].read(), expected.bfloat16()), "rounded once"
    untouched = out.sources["layers.0.attention.wv.weight"].read()
    assert torch.equal(untouched, values_of(packed.linears["layers.0.attention.wv"].load(), torch.bfloat16))


def test_a_gguf_model_is_a_base_too(tmp_path: Path, adapter: LoraAdapter) -> None:
    """Its embeddings are codes as well, and one row of them goes into the image part."""
    from tessera.weights.convert import convert

    base(tmp_path / "base")
    convert(tmp_path / "base", tmp_path / "q8", "gguf", kind="q8_0")
    (model,) = (tmp_path / "q8").glob("q8.*.gguf")
    merge(tmp_path / "adapter", model, tmp_path / "out", "gguf", base="quantized", kind="bf16")
    (found,) = (tmp_path / "out").glob("out.*.gguf")
    before, after = open_checkpoint(model), open_checkpoint(found)
    expected = values_of(before.linears[WQ].load()) + adapter.modules[WQ].change()
    assert torch.equal(after.sources[f"{WQ}.weight"].read(), expected.bfloat16())
    name = "tok_embeddings.weight"
    torch.testing.assert_close(after.sources[name].read(), before.sources[name].read())


def test_quantized_values_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for every panel that is written."""
    base(tmp_path / "base")
    write_peft(random_adapter(LLAVA, lambda name: name == WQ), tmp_path / "adapter", LLAVA)
    quantize(tmp_path / "base", tmp_path / "packed", Options("4", "8", "16"))
    monkeypatch.setattr("tessera.weights.gguf.write.PANEL_WEIGHTS", 64)
    seen: list[QuantizedWeight] = []

    def counted(weight: QuantizedWeight, dtype: torch.dtype) -> Tensor:
        seen.append(weight)
        return values_of(weight, dtype)

    monkeypatch.setattr("tessera.lora.merge.values_of", counted)
    merge(tmp_path / "adapter", tmp_path / "packed", tmp_path / "out", "gguf", base="quantized", kind="bf16")
    assert len(seen) == len(open_checkpoint(tmp_path / "packed").linears)


def test_a_base_that_is_not_as_said_is_refused(tmp_path: Path, adapter: LoraAdapter) -> None:
    base(tmp_path / "base")
    quantize(tmp_path / "base", tmp_path / "packed", Options("8", "8", "16"))
    for model, said in (("base", "quantized"), ("packed", "full")):
        with pytest.raises(UsageError, match=f"--base {'full' if said == 'quantized' else 'quantized'}"):
            merge(tmp_path / "adapter", tmp_path / model, tmp_path / "out", "hf", base=said)
    wrong: list[dict[str, Any]] = [{"into": "onnx"}, {"into": "hf", "base": "half"}, {"into": "hf", "kind": "bf16"}]
    for options in wrong:
        with pytest.raises(UsageError, match=r"is unknown|is for GGUF"):
            merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
