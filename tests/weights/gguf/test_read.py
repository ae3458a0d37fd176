"""A GGUF model is the model it was made of, whoever wrote it; what does not belong is refused by name."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera import load
from tessera.errors import CheckpointError, UsageError
from tessera.kernels.library import forced
from tessera.kernels.packed_weight import dequantize
from tessera.linears.quantized import QuantizedLinear
from tessera.llm import LLM
from tessera.messages import Image
from tessera.model.attention import DensePlan
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.summary import describe
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.convert import convert
from tessera.weights.fill import empty_model
from tessera.weights.gguf.names import to_gguf_name
from tessera.weights.gguf.read import open_pair, read_config
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, MERGED, tensors_of, write_mistral_folder
from tests.weights.gguf.files import decode, encode, gguf_name, token_values, write_pair

QUESTIONS = ("What is the value of Rome?", "Which bar is highest?")


def values_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor as float32, packed ones dequantized."""
    values = {name: parameter.data.float() for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            values[f"{name}.weight"] = dequantize(module.quantized)
    return values


@pytest.mark.parametrize("config", [LLAVA, MERGED], ids=["plain", "merged"])
def test_names_are_those_of_the_packages_tables(config: Any) -> None:
    for name, _ in empty_model(config).named_parameters():
        assert to_gguf_name(name) == gguf_name(name, config)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_every_value_is_what_the_package_says(kind: Kind, tmp_path: Path) -> None:
    tensors = tensors_of(LLAVA, torch.float32)
    loaded = load_model(write_pair(tmp_path, kind, vision_kind=Kind.F16), device="cpu", dtype="float32")
    values = values_of(loaded.model)
    assert values.keys() == tensors.keys()
    assert loaded.config == dataclasses.replace(LLAVA, max_seq_len=131_072)  # not the file's 1,024,000
    row = LLAVA.vision_encoder.image_break_token_id
    for name, tensor in tensors.items():
        used = Kind.F16 if to_gguf_name(name).startswith(("v.", "mm.")) else kind
        expected = tensor if tensor.ndim != 2 else decode(encode(tensor, used), used)
        if name == "tok_embeddings.weight" and kind not in (Kind.F32, Kind.F16, Kind.BF16):
            expected[row] = tensor[row]  # unrounded, from the vision part
        assert torch.equal(values[name], expected), name
    assert loaded.notes == ()


MIXED = {
    "layers.0.attention.wq.weight": Kind.Q4_K,
    "layers.0.attention.wv.weight": Kind.Q6_K,
    "layers.0.feed_forward.w2.weight": Kind.Q5_K,
    "layers.1.feed_forward.w1.weight": Kind.IQ4_XS,
    "layers.1.feed_forward.w3.weight": Kind.IQ4_NL,
    "tok_embeddings.weight": Kind.Q4_K,
    "output.weight": Kind.Q6_K,
}
WIDE = dataclasses.replace(LLAVA, dim=256, hidden_dim=512)


def test_a_mixed_model_computes_what_its_values_do(tmp_path: Path) -> None:
    """As Q4_K_M files are: several types, embeddings dequantized, what has no place in 4 or 8 bits rounded."""
    loaded = load_model(write_pair(tmp_path, MIXED, config=WIDE), device="cpu", dtype="float32")
    packed = {name for name, module in loaded.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {f"{name}.weight" for name in packed} == MIXED.keys() - {"tok_embeddings.weight"}
    plain = empty_model(WIDE).to_empty(device="cpu")
    plain.load_state_dict(values_of(loaded.model))
    ids = torch.tensor([1, 3, 1070, 1080, 1090, 4])
    logits = []
    for model in (plain, loaded.model):
        # Integer kernels round inputs to 8 bits; here the values of the weights are the question.
        with forced("torch"), torch.inference_mode():
            logits.append(model.logits(model(model.embed(ids, []), DensePlan([len(ids)]))))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    tensors = tensors_of(WIDE, torch.float32)
    for name, kind in MIXED.items():
        exact = decode(encode(tensors[name], kind), kind)
        if name == "tok_embeddings.weight":
            exact[12] = tensors[name][12]
        found = values_of(loaded.model)[name]
        if kind in (Kind.Q6_K, Kind.IQ4_XS):
            assert 0 < (found - exact).norm() / exact.norm() < 0.01
        else:
            assert torch.equal(found, exact), name


def test_a_rounding_is_measured_and_said(tmp_path: Path) -> None:
    file = write_pair(tmp_path, MIXED, config=WIDE)
    summary = describe(file)
    tensors, errors, weights = tensors_of(WIDE, torch.float32), 0.0, 0.0
    for name, kind in MIXED.items():
        if kind in (Kind.Q6_K, Kind.IQ4_XS):
            exact = decode(encode(tensors[name], kind), kind)[:64]
            rounded = decode(encode(exact, Kind.Q8_0), Kind.Q8_0)
            errors, weights = errors + float((rounded - exact).square().sum()), weights + float(exact.square().sum())
    error = f"{(errors / weights) ** 0.5:.2%}"
    assert summary.notes == (f"3 tensors of IQ4_XS and Q6_K are rounded to 8 bits, off by {error} (root mean square)",)
    assert (summary.quantized, summary.dtype) == ({"int4": 1, "int8": 5}, "float32")
    assert (summary.name, summary.layout) == ("tiny", "gguf")
    held = load_model(file, device="cpu", dtype="float32")
    assert held.notes == summary.notes
    bytes_held = sum(parameter.nbytes for parameter in held.model.parameters())
    bytes_held += sum(module.quantized.nbytes for module in held.model.modules() if isinstance(module, QuantizedLinear))
    assert summary.weight_bytes == bytes_held


@pytest.mark.parametrize("kind", ["bf16", "q4_0"])
def test_a_detour_over_the_other_layout_changes_nothing(kind: str, tmp_path: Path) -> None:
    """Hugging Face's layout has the rows of queries and keys in another order; llama.cpp has the official one."""
    write_mistral_folder(tmp_path / "official")
    convert(tmp_path / "official", tmp_path / "hf", "hf")
    for source in ("official", "hf"):
        convert(tmp_path / source, tmp_path / f"from {source}" / "model", "gguf", kind=kind)
    for file in (tmp_path / "from official" / "model").iterdir():
        assert file.read_bytes() == (tmp_path / "from hf" / "model" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("kind", [Kind.BF16, Kind.Q8_0], ids=lambda kind: kind.name)
def test_nano_from_its_files_answers_as_nano(kind: Kind, tmp_path: Path) -> None:
    nano = open_checkpoint(load.find_model("nano"))
    tensors = {name: source.read() for name, source in nano.sources.items()}
    file = write_pair(tmp_path, kind, config=nano.config, tensors=tensors, tokenizer=nano.tokenizer_file)
    chart = Image(str(load.BUNDLED_FOLDER.parent / "demo" / "chart.png"))
    replies = []
    for model in ("nano", file):
        with LLM(model, dtype="float32", device="cpu", max_num_seqs=2) as llm:
            asked = [[{"role": "user", "content": [chart, text]}] for text in QUESTIONS]
            replies.append([reply.text for reply in llm.batch(asked)])
    assert replies[0] == replies[1]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["tiny.gguf"], r"is the text model alone, and there is no mmproj\*\.gguf beside it; .*--mmproj"),
        (["tiny.gguf", "mmproj-a.gguf", "b.mmproj.GGUF"], r"holds 2 vision parts \(b\.mmproj\.GGUF, mmproj-a\.gguf\)"),
    ],
    ids=["none", "two"],
)
def test_a_vision_part_is_found_or_asked_for(names: list[str], says: str, tmp_path: Path) -> None:
    text = write_pair(tmp_path / "whole")
    vision = text.with_name("mmproj-tiny.gguf")
    for name in names:
        (tmp_path / name).write_bytes((vision if "mmproj" in name else text).read_bytes())
    (tmp_path / "tekken.json").write_bytes(text.with_name("tekken.json").read_bytes())
    with pytest.raises(CheckpointError, match=says):
        load_model(tmp_path / "tiny.gguf")
    load_model(tmp_path / "tiny.gguf", mmproj=vision, device="cpu")


def test_files_that_are_no_such_pair(tmp_path: Path) -> None:
    text = write_pair(tmp_path)
    vision = text.with_name("mmproj-tiny.gguf")
    with pytest.raises(
        CheckpointError, match=r"mmproj-tiny\.gguf is the vision part of a model; give the text model's"
    ):
        load_model(vision)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is of the architecture 'llama', and the vision part"):
        load_model(text, mmproj=text)
    with pytest.raises(UsageError, match=r"is not a GGUF file and contains its vision part; leave out --mmproj"):
        load_model(load.find_model("nano"), mmproj=vision)
    with pytest.raises(CheckpointError, match=r"absent\.gguf could not be read \(No such file or directory\)"):
        load_model(text, mmproj=tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"general.architecture": [1, 2]}, r"of the architecture None, and the text model .* has 'llama'"),
        ({"tokenizer.ggml.model": [1, 2]}, r"tokenizer\.ggml\.model is None, and only tekken's"),
        ({"llama.rope.scaling.type": "y" * 10**6}, r"type is 'y{12}\.\.\.y{13}', and this model needs 'none'"),
        ({"llama.feed_forward_length": 2**31 - 1}, r"hidden_dim is 2147483647 and must be .* at most 1048576"),
        ({"general.architecture": "qwen2"}, r"of the architecture 'qwen2', and the text model .* has 'llama'"),
        ({"llama.block_count": None}, r"the key 'llama\.block_count' is missing"),
        (
            {"llama.block_count": 2**31 - 1},
            r"llama\.block_count is 2147483647, and it must be a whole number from 1 to 21",
        ),
        ({"llama.block_count": 3}, r"9 of the model's 54 tensors are missing, first 'layers\.2\."),
        ({"llama.embedding_length": 0}, r"llama\.embedding_length is 0, and it must be"),
        (
            {"llama.embedding_length": 96},
            r"'token_embd\.weight' has the shape \(1280, 64\), the config asks for \(1280, 96\)",
        ),
        ({"llama.attention.head_count": "4"}, r"llama\.attention\.head_count is '4', and it must be a whole number"),
        ({"llama.attention.head_count_kv": [2, 2]}, r"llama\.attention\.head_count_kv is array"),
        ({"llama.attention.value_length": 32}, r"value_length is 32, and this model needs 24"),
        ({"llama.rope.dimension_count": 12}, r"rope\.dimension_count is 12, and this model needs 24"),
        ({"llama.rope.freq_base": float("nan")}, r"freq_base is nan, and it must be a positive number"),
        ({"llama.rope.scaling.type": "yarn"}, r"rope\.scaling\.type is 'yarn', and this model needs 'none'"),
        ({"llama.expert_count": 8}, r"expert_count is 8, and this model needs 0"),
        ({"llama.attention.sliding_window": 4096}, r"sliding_window is 4096, and this model needs 1024000"),
        ({"llama.logit_scale": 0.5}, r"has the key 'llama\.logit_scale', which is not known here"),
        ({"llama.vocab_size": 1281}, r"llama\.vocab_size is 1281, and this model needs 1280"),
        ({"tokenizer.ggml.model": "llama"}, r"tokenizer\.ggml\.model is 'llama', and only tekken's"),
        ({"tokenizer.ggml.tokens": None}, r"only tekken's byte-pair vocabulary"),
        ({"tokenizer.ggml.tokens": ["a"] * 1280}, r"has no token \[IMG\], so it is not a model that sees images"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_text_models_file_may_not_say(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = write_pair(tmp_path, text_values=changes)
    with pytest.raises(CheckpointError, match=says) as refused:
        load_model(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clip.projector_type": "mlp"}, r"clip\.projector_type is 'mlp', and this model needs 'pixtral'"),
        ({"clip.has_vision_encoder": False}, r"has_vision_encoder is False, and this model needs True"),
        ({"clip.has_audio_encoder": True}, r"has_audio_encoder is True, and this model needs False"),
        ({"clip.vision.block_count": 10**9}, r"block_count is 1000000000, and it must be a whole number from 1 to 25"),
        ({"clip.vision.image_mean": ["a", "b", "c"]}, r"image_mean is \[b'a', b'b', b'c'\], and Pixtral's is"),
        ({"clip.vision.image_mean": [0.5, 0.5, 0.5]}, r"image_mean is .*Pixtral's is \(0\.48145466"),
        ({"clip.vision.attention.layer_norm_epsilon": 1e-6}, r"layer_norm_epsilon is .*this model needs 1e-05"),
        ({"clip.vision.attention.head_count": 3}, r"64 does not split into 3 heads"),
        ({"clip.vision.feature_layer": [1, 2]}, r"has the key 'clip\.vision\.feature_layer', which is not known"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_vision_parts_file_may_not_say(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = write_pair(tmp_path, vision_values=changes)
    with pytest.raises(CheckpointError, match=says):
        load_model(file)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text", {"llama.expert_used_count": 0, "llama.expert_count": 0}),
        ("text", {"llama.attention.causal": True}),
        ("text", {"llama.attention.sliding_window": 0}),
        ("text", {"llama.rope.scaling.factor": 1.0, "llama.rope.scaling.type": "none"}),
        ("text", {"llama.logit_scale": 1.0, "llama.embedding_scale": 1.0, "llama.residual_scale": 1.0}),
        ("vision", {"clip.has_text_encoder": False}),
        ("vision", {"clip.has_llava_projector": False}),
        ("vision", {"clip.has_llava_projector": True}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_key_that_changes_nothing_is_read(part: str, changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = load_model(write_pair(tmp_path / "plain"), device="cpu")
    values: Any = {f"{part}_values": changes}
    loaded = load_model(write_pair(tmp_path, **values), device="cpu")
    assert loaded.config == plain.config


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text", {"llama.expert_used_count": 2}),
        ("text", {"llama.attention.causal": False}),
        ("text", {"llama.rope.scaling.factor": 4.0}),
        ("text", {"llama.attention.scale": 1.0}),
        ("vision", {"clip.has_text_encoder": True}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_the_same_key_with_another_value_is_refused(part: str, changes: dict[str, Any], tmp_path: Path) -> None:
    values: Any = {f"{part}_values": changes}
    with pytest.raises(CheckpointError, match="which is not known here and may change the computation"):
        load_model(write_pair(tmp_path, **values), device="cpu")


def test_numbers_of_64_bits_beyond_float32_are_refused(tmp_path: Path) -> None:
    pair = open_pair(write_pair(tmp_path))
    header = dataclasses.replace(pair.text, values={**pair.text.values, "llama.rope.freq_base": 1e300})
    with pytest.raises(CheckpointError, match=r"freq_base is 1e\+300, and it must be a positive number"):
        read_config(dataclasses.replace(pair, text=header))


def test_a_break_embedding_of_another_width_is_refused(tmp_path: Path) -> None:
    file = write_pair(tmp_path, Kind.Q8_0)
    vision = file.with_name("mmproj-tiny.gguf")
    name, content = b"v.token_embd.img_break", vision.read_bytes()
    wide, narrow = (name + struct.pack("<IQ", 1, width) for width in (64, 32))
    assert content.count(wide) == 1
    vision.write_bytes(content.replace(wide, narrow))
    with pytest.raises(CheckpointError, match=r"img_break' has the shape \(32,\), and the embeddings are 64 wide"):
        open_checkpoint(file)


def test_embeddings_in_few_bits_alone_are_not_quantized_again(tmp_path: Path) -> None:
    file = write_pair(tmp_path / "model", {"tok_embeddings.weight": Kind.Q8_0})
    with pytest.raises(UsageError, match="is quantized already; quantize the original"):
        quantize(file, tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


def test_early_uploads_say_gelu_and_mean_silu(tmp_path: Path) -> None:
    """And a projector type may lie in the vision section, as files for several senses have it."""
    changes = {"clip.use_silu": None, "clip.use_gelu": True, "clip.projector_type": None}
    file = write_pair(tmp_path, vision_values=changes | {"clip.vision.projector_type": "pixtral"})
    assert load_model(file, device="cpu").config.vision_encoder == LLAVA.vision_encoder


def test_a_model_with_a_merge(tmp_path: Path) -> None:
    loaded = load_model(write_pair(tmp_path, config=MERGED), device="cpu", dtype="float32")
    assert loaded.config.vision_encoder == MERGED.vision_encoder
    for name, tensor in tensors_of(MERGED, torch.float32).items():
        assert torch.equal(values_of(loaded.model)[name], tensor), name


def test_tokens_must_be_the_tokenizers(tmp_path: Path) -> None:
    file = write_pair(tmp_path)
    listed = token_values(file.with_name("tekken.json").read_bytes())["tokenizer.ggml.tokens"]
    # Unused places have other names in files made from Hugging Face's layout; that is no disagreement.
    write_pair(tmp_path, text_values={"tokenizer.ggml.tokens": [*listed[:20], "<other>", *listed[21:]]})
    open_checkpoint(file).load_tokenizer()
    for place, token in ((3, "[USER]"), (1270, listed[1271])):
        write_pair(tmp_path, text_values={"tokenizer.ggml.tokens": [*listed[:place], token, *listed[place + 1 :]]})
        with pytest.raises(CheckpointError, match=rf"token {place} is .*; put the tekken\.json of this model beside"):
            load_model(file)
    file.with_name("tekken.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tekken\.json"):
        load_model(file)


def test_tensors_of_another_model(tmp_path: Path) -> None:
    tensors = tensors_of(LLAVA, torch.float32)
    file = write_pair(tmp_path, tensors={name: tensor for name, tensor in tensors.items() if name != "norm.weight"})
    with pytest.raises(CheckpointError, match=r"1 of the model's 45 tensors are missing, first 'norm\.weight'"):
        load_model(file)
    file = write_pair(tmp_path, tensors=tensors)
    other = write_pair(tmp_path / "other", config=WIDE).with_name("mmproj-tiny.gguf")
    with pytest.raises(
        CheckpointError, match=r"'mm\.1\.weight' has the shape \(256, 64\), the config asks for \(64, 64\)"
    ):
        load_model(file, mmproj=other)
