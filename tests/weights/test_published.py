"""Quantized checkpoints of others: each linear must stand for the matrix that its own library takes it for.

compressed-tensors writes and reads its files itself. AutoAWQ's and AutoGPTQ's packing is written here
from their definitions, a number at a time: eight codes of 4 bits to a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.errors import CheckpointError, UsageError
from tessera.kernels.quantized_weight import values_of
from tessera.linears.quantized import QuantizedLinear
from tessera.model.config import ModelConfig
from tessera.summary import describe
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.convert import convert
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, TIED, edit_json, write_mistral_folder
from tests.weights.test_transformers import example, oracle_class, oracle_logits, our_logits

Writer = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]  # a matrix to its tensors, and what they stand for


def compressed(form: str, **weights: Any) -> tuple[dict[str, Any], Writer]:
    """quantization_config and writer of a format of compressed-tensors."""
    width = int(weights.get("group_size") or 0)
    bits, floating = weights["num_bits"], weights.get("type") == "float"

    def write(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        # Here, since it takes seconds and every process that collects the tests imports this module.
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
        compressor = BaseCompressor.get_value_from_registry(form)
        grouped = matrix.unflatten(1, (-1, width or matrix.shape[1]))
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        state = {"weight": matrix}
        if weights.get("symmetric", True):
            state["weight_scale"] = torch.maximum(-low, high) / (448 if floating else (1 << (bits - 1)) - 0.5)
        else:
            state["weight_scale"] = (high - low) / ((1 << bits) - 1)
            zeros = (-low / state["weight_scale"]).round() - (1 << (bits - 1))
            state["weight_zero_point"] = zeros.to(torch.int8)
        state["weight_scale"] = state["weight_scale"].to(torch.bfloat16)
        stored = compressor.compress(state, scheme)
        # It computes in the scales' dtype; in float32 what it gives is exact.
        exact = {"weight_scale": stored["weight_scale"].float()}
        return dict(stored), compressor.decompress(dict(stored) | exact, scheme)["weight"]

    group = {"targets": ["Linear"], "weights": {"type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}, write


def words(codes: Iterable[int], order: Iterable[int] = range(8), bits: int = 4) -> int:
    """One word: at place i, from the lowest bits on, the code of column order[i]; as a signed number."""
    listed = list(codes)
    value = sum(listed[column] << (bits * place) for place, column in enumerate(order))
    return value - (1 << 32) if value >= 1 << 31 else value


def awq(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    codes, zeros, scales = rounded(matrix, 32, 4, centred=False)
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def along_outputs(table: Tensor) -> Tensor:  # (anything, N) -> (anything, N / 8)
        return torch.tensor([[words(row[n : n + 8], order) for n in range(0, len(row), 8)] for row in table.tolist()])

    stored = {"qweight": along_outputs(codes.T).int(), "qzeros": along_outputs(zeros.T).int(), "scales": scales.T}
    return {name: tensor.contiguous() for name, tensor in stored.items()}, value_of(codes, zeros, scales)


def gptq(bits: int, *, centred: bool, less: int) -> Writer:
    def write(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        codes, zeros, scales = rounded(matrix, 32, bits, centred=centred)
        step, columns = 32 // bits, matrix.shape[1]

        def packed(table: Tensor) -> Tensor:  # along the last dimension
            rows = [
                [words(row[n : n + step], range(step), bits) for n in range(0, len(row), step)]
                for row in table.tolist()
            ]
            return torch.tensor(rows, dtype=torch.int64).int()

        stored = {
            "qweight": packed(codes).T,
            "qzeros": packed((zeros - less).T % (1 << bits)),
            "scales": scales.T,
            "g_idx": (torch.arange(columns) // 32).int(),
        }
        return {name: tensor.contiguous() for name, tensor in stored.items()}, value_of(codes, zeros, scales)

    return write


def rounded(matrix: Tensor, width: int, bits: int, *, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, K), zeros (N, G) and float16 scales (N, G)."""
    grouped, most = matrix.unflatten(1, (-1, width)), (1 << bits) - 1
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    middle = 1 << (bits - 1)
    scales = (torch.maximum(-low, high) / (middle - 0.5) if centred else (high - low) / most).half()
    zeros = torch.full_like(low, middle) if centred else (-low / scales.float()).round().clamp(0, most)
    codes = (grouped / scales.float()[..., None] + zeros[..., None]).round().clamp(0, most).flatten(1)
    return codes.long(), zeros.long(), scales


def value_of(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    width = codes.shape[1] // zeros.shape[1]
    return (codes - zeros.repeat_interleave(width, 1)) * scales.float().repeat_interleave(width, 1)


def fp8_of_one_scale(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """As Ministral 3 is published, with one scale for a matrix and one for its inputs."""
    scale = matrix.abs().max() / 448
    values = (matrix / scale).to(torch.float8_e4m3fn)
    stored = {"weight": values, "weight_scale_inv": scale, "activation_scale": torch.tensor(0.01)}
    return stored, values.float() * scale


MINISTRAL = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None, "dequantize": False}
W4 = {"num_bits": 4, "strategy": "group", "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
FORMATS: dict[str, tuple[dict[str, Any], Writer]] = {
    "w4a16": compressed("pack-quantized", **W4, symmetric=True),
    "w4a16 with zeros": compressed("pack-quantized", **W4, symmetric=False),
    "w4a16 a scale each row": compressed("pack-quantized", num_bits=4, strategy="channel", symmetric=True),
    "w8a16": compressed("pack-quantized", **W4 | {"num_bits": 8}, symmetric=True),
    "w8a8": compressed("int-quantized", num_bits=8, strategy="channel", symmetric=True),
    "fp8": compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True),
    "ministral": (MINISTRAL, fp8_of_one_scale),
    "awq": (AWQ, awq),
    "gptq": (GPTQ, gptq(4, centred=True, less=1)),
    "gptq with zeros": (GPTQ | {"sym": False}, gptq(4, centred=False, less=1)),
    "gptq v2": (GPTQ | {"sym": False, "checkpoint_format": "gptq_v2"}, gptq(4, centred=False, less=0)),
    "gptq 8 bits": (GPTQ | {"bits": 8}, gptq(8, centred=True, less=1)),
}
LINEARS = [
    f"layers.{layer}.{part}"
    for layer in range(LLAVA.n_layers)
    for part in (*(f"attention.w{x}" for x in "qkvo"), *(f"feed_forward.w{x}" for x in "123"))
]
QUANTIZED = ("_proj.weight",)  # of the decoder; the rest is plain, as in what is published


def write_published(tmp_path: Path, name: str, config: ModelConfig = LLAVA) -> tuple[Path, Path]:
    """A quantized folder, and a plain one with what its matrices stand for."""
    settings, write = FORMATS[name]
    write_mistral_folder(tmp_path / "mistral", config, torch.float32)
    for folder in ("quantized", "plain"):
        convert(tmp_path / "mistral", tmp_path / folder, "hf")
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    stored, plain = {}, {}
    for key, tensor in tensors.items():
        if key.startswith("language_model.") and key.endswith(QUANTIZED):
            parts, plain[key] = write(tensor)
            stored |= {key.removesuffix("weight") + suffix: part.contiguous() for suffix, part in parts.items()}
        else:
            stored[key] = plain[key] = tensor
    save_file(stored, tmp_path / "quantized" / "model.safetensors", {"format": "pt"})
    save_file(
        {k: v.float().contiguous() for k, v in plain.items()},
        tmp_path / "plain" / "model.safetensors",
        {"format": "pt"},
    )
    edit_json(tmp_path / "quantized" / "config.json", quantization_config=settings)
    return tmp_path / "quantized", tmp_path / "plain"


@pytest.mark.parametrize("name", FORMATS)
def test_every_linear_stands_for_what_its_library_takes_it_for(name: str, tmp_path: Path) -> None:
    quantized, plain = write_published(tmp_path, name)
    loaded, expected = (load_model(each, device="cpu", dtype="float32").model for each in (quantized, plain))
    for module in LINEARS:
        linear, wanted = loaded.get_submodule(module), expected.get_parameter(f"{module}.weight")
        assert isinstance(linear, QuantizedLinear)
        got = values_of(linear.quantized)
        # Scales and minimums in float16: 11 bits, of at most 15 steps.
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=float(wanted.abs().max()) * 2**-11)
    summary = describe(quantized)
    assert sum(summary.quantized.values()) == len(LINEARS)
    assert summary.parameters == describe(plain).parameters
    assert summary.weight_bytes < describe(plain).weight_bytes


def write_official_fp8(mistral: Path, scheme: str = "TENSOR") -> None:
    """The decoder's matrices of a folder in the official layout as Ministral 3 is published."""
    official = load_file(mistral / "consolidated.safetensors")
    for name in LINEARS:
        values = fp8_of_one_scale(official[f"{name}.weight"].float())[0]
        official |= {f"{name}.weight": values["weight"], f"{name}.qscale_weight": values["weight_scale_inv"]}
        if scheme == "TENSOR":
            official[f"{name}.qscale_act"] = values["activation_scale"]
    save_file(official, mistral / "consolidated.safetensors")
    edit_json(mistral / "params.json", quantization={"qformat_weight": "fp8_e4m3", "qscheme_act": scheme})


@pytest.mark.parametrize("scheme", ["TENSOR", "NO_SCALES"])
def test_the_official_layout_of_ministrals_fp8_is_the_same_model(scheme: str, tmp_path: Path) -> None:
    """Both layouts as published, made from the same matrices: and what they stand for in transformers."""
    hf, plain = write_published(tmp_path, "ministral", TIED)
    write_official_fp8(tmp_path / "mistral", scheme)
    one, other = (load_model(each, device="cpu", dtype="float32").model for each in (hf, tmp_path / "mistral"))
    for name in LINEARS:
        mine, theirs = one.get_submodule(name).quantized, other.get_submodule(name).quantized
        assert torch.equal(mine.values.view(torch.uint8), theirs.values.view(torch.uint8))
        assert torch.equal(mine.scales, theirs.scales)
    assert one.output.weight is one.tok_embeddings.weight
    assert other.output.weight is other.tok_embeddings.weight
    theirs_model = oracle_class("mistral3").from_pretrained(plain, dtype=torch.float32)
    ids_T, images = example(TIED)
    theirs_TV = oracle_logits(theirs_model.eval(), ids_T, images)
    for ours in (one, other):
        torch.testing.assert_close(our_logits(ours, ids_T, images), theirs_TV, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "given", [{"qformat_weight": "nvfp4"}, {"qscheme_act": "TENSOR"}, {"qformat_weight": "fp8_e4m3", "x": 1}, "fp8"]
)
def test_another_quantization_of_the_official_layout_is_refused(given: Any, tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "mistral", TIED)
    edit_json(tmp_path / "mistral" / "params.json", quantization=given)
    with pytest.raises(CheckpointError, match=r"params\.json: quantization is .* only qformat_weight 'fp8_e4m3'"):
        load_model(tmp_path / "mistral", device="cpu")


def test_a_head_of_its_own_in_a_tied_model_is_refused(tmp_path: Path) -> None:
    tensors = write_mistral_folder(tmp_path / "mistral", TIED)
    tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()
    save_file(tensors, tmp_path / "mistral" / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 'output\.weight', and .* says tied_embeddings"):
        load_model(tmp_path / "mistral", device="cpu")


REFUSED = [
    ("awq", {"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ("awq", {"version": "gemv"}, "version is 'gemv'"),
    ("awq", {"bits": 3}, "bits is 3"),
    ("ministral", {"weight_block_size": [128, 128]}, r"weight_block_size is \[128, 128\]"),
    ("ministral", {"activation_scheme": "other"}, "activation_scheme is 'other'"),
    ("gptq", {"bits": 3}, "bits is 3"),
    ("gptq", {"checkpoint_format": "marlin"}, "marlin"),
    ("gptq with zeros", {"sym": True}, "zeros"),
    ("w4a16", {"format": "marlin-24"}, "marlin-24"),
    ("w4a16", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
    ("w4a16", {"config_groups": None}, "config_groups"),
    ("w4a16", {"config_groups": 3}, "config_groups of quantization_config is 3 and must be an object"),
    ("w4a16", {"config_groups": {"a": {"weights": [1]}}}, "weights of quantization_config is .* must be an object"),
    ("w4a16", {"sparsity_config": "dense"}, "sparsity_config of quantization_config is 'dense' and must be an object"),
    ("w4a16", {"format": ["pack-quantized"]}, "pack-quantized"),
]


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_read_is_refused_by_name(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    quantized, _ = write_published(tmp_path, name)
    edit_json(quantized / "config.json", quantization_config=FORMATS[name][0] | changes)
    with pytest.raises(CheckpointError, match=said):
        load_model(quantized, device="cpu")


def test_columns_grouped_by_activation_order_are_refused(tmp_path: Path) -> None:
    quantized, _ = write_published(tmp_path, "gptq")
    tensors = load_file(quantized / "model.safetensors")
    key = next(name for name in tensors if name.endswith("g_idx"))
    tensors[key] = tensors[key].flip(0).contiguous()
    save_file(tensors, quantized / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="desc_act"):
        load_model(quantized, device="cpu")


def test_a_tensor_that_does_not_fit_or_is_missing_is_named(tmp_path: Path) -> None:
    quantized, _ = write_published(tmp_path, "w4a16")
    whole = load_file(quantized / "model.safetensors")
    key = next(name for name in whole if name.endswith("q_proj.weight_packed"))
    for changed in ({key: whole[key][:-1].clone()}, {key: whole[key].to(torch.int64)}, {key: None}):
        tensors = {name: tensor for name, tensor in (whole | changed).items() if tensor is not None}
        save_file(tensors, quantized / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match="q_proj"):
            load_model(quantized, device="cpu")


def edit_published(tmp_path: Path, name: str, edit: Callable[[str, Tensor], Tensor | None]) -> Path:
    """A quantized folder whose every tensor was replaced, or left out."""
    quantized, _ = write_published(tmp_path, name)
    tensors = {key: edit(key, tensor) for key, tensor in load_file(quantized / "model.safetensors").items()}
    kept = {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}
    save_file(kept, quantized / "model.safetensors", {"format": "pt"})
    return quantized


def test_zero_points_that_the_config_promises_must_be_there(tmp_path: Path) -> None:
    def edit(key: str, tensor: Tensor) -> Tensor | None:
        return None if key.endswith("weight_zero_point") else tensor

    with pytest.raises(CheckpointError, match="which this architecture does not have"):
        load_model(edit_published(tmp_path, "w4a16 with zeros", edit), device="cpu")


@pytest.mark.parametrize(("name", "suffix"), [("w8a16", "weight_scale"), ("fp8", "weight_scale"), ("awq", "scales")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(name: str, suffix: str, value: float, tmp_path: Path) -> None:
    def edit(key: str, tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, value) if key.endswith(f"q_proj.{suffix}") else tensor

    with pytest.raises(CheckpointError, match=r"'layers\.0\.attention\.wq' has a scale that is not a finite number"):
        load_model(edit_published(tmp_path, name, edit), device="cpu")


def test_a_scale_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    def edit(key: str, tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, 1e6) if key.endswith("q_proj.weight_scale") else tensor

    with pytest.raises(CheckpointError, match="too large for float16"):
        load_model(edit_published(tmp_path, "w4a16", edit), device="cpu")


def test_scales_of_blocks_are_refused_though_they_are_as_many_as_rows(tmp_path: Path) -> None:
    def edit(key: str, tensor: Tensor) -> Tensor:
        return tensor.view(-1, 2) if key.endswith("weight_scale") else tensor

    with pytest.raises(CheckpointError, match=r"scales of the shape \(48, 2\), which this version does not read"):
        open_checkpoint(edit_published(tmp_path, "fp8", edit))


def test_scales_of_a_cache_are_not_used(tmp_path: Path) -> None:
    quantized, _ = write_published(tmp_path, "fp8")
    tensors = load_file(quantized / "model.safetensors")
    attention = "language_model.model.layers.0.self_attn"
    tensors |= {f"{attention}.k_scale": torch.ones(1), f"{attention}.v_scale": torch.ones(1)}
    tensors[f"{attention}.q_proj.input_scale"] = torch.ones(1)
    save_file(tensors, quantized / "model.safetensors", {"format": "pt"})
    load_model(quantized, device="cpu")


def test_a_quantized_checkpoint_is_neither_converted_nor_unpacked(tmp_path: Path) -> None:
    quantized, _ = write_published(tmp_path, "w4a16")
    with pytest.raises(UsageError, match="quantized"):
        convert(quantized, tmp_path / "other", "mistral")
    assert json.loads((quantized / "config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
