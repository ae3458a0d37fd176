"""What a folder holds and needs, and whether it may be loaded here: from headers, before any weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tessera import LLM, load
from tessera.errors import CheckpointError, ModelNotFoundError, UsageError
from tessera.model.config import ModelConfig
from tessera.prompt import packaged_tokenizer_path
from tessera.summary import describe
from tessera.weights import hf_names
from tessera.weights.convert import convert
from tessera.weights.fill import empty_model
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, MERGED, write_mistral_folder
from tests.weights.test_configs import PIXTRAL_12B, PIXTRAL_12B_HF, SMALL_31


def write_header(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A bfloat16 safetensors file of full size with nothing in it: the disk stores only the header."""
    header, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


def full_size(folder: Path, config: ModelConfig) -> Path:
    folder.mkdir()
    write_header(
        folder / "consolidated.safetensors", {n: tuple(p.shape) for n, p in empty_model(config).named_parameters()}
    )
    (folder / "params.json").write_text(json.dumps(config.to_params()))
    (folder / "tekken.json").write_text(json.dumps({"config": {"version": "v3"}, "vocab": []}))
    return folder


def test_the_full_12b(tmp_path: Path) -> None:
    summary = describe(full_size(tmp_path / "Pixtral-12B-2409", PIXTRAL_12B))
    assert asdict(summary) == {
        "name": "Pixtral-12B-2409",
        "family": "Pixtral 12B",
        "layout": "mistral",
        "folder": str(tmp_path / "Pixtral-12B-2409"),
        "tokenizer": "tekken.json, version v3",
        "dtype": "bfloat16",
        "parameters": 12_682_739_712,
        "decoder_parameters": 12_247_782_400,
        "vision_parameters": 403_489_792,
        "adapter_parameters": 31_467_520,
        "quantized": {},
        "tensors": 585,
        "stored_bytes": 25_365_479_424,
        "weight_bytes": 25_365_479_424,
        "max_seq_len": 131_072,
        "largest_image_tokens": 4160,
        "kv_bytes_per_token": 160 * 1024,
        "kv_bytes_per_token_int8": 40 * 2 * 8 * (128 + 4),
        "kv_bytes_per_megapixel_image": 650 * 2**20,
        "notes": (),
    }
    assert json.loads(json.dumps(asdict(summary)))


def test_the_full_12b_in_the_other_layout_without_a_tokenizer(tmp_path: Path) -> None:
    shapes = {hf_names.to_hf_name(name): tuple(p.shape) for name, p in empty_model(PIXTRAL_12B).named_parameters()}
    write_header(tmp_path / "model.safetensors", shapes)
    (tmp_path / "config.json").write_text(json.dumps(PIXTRAL_12B_HF))
    summary = describe(tmp_path)
    assert (summary.parameters, summary.tensors, summary.layout) == (12_682_739_712, 585, "hf")
    assert summary.tokenizer == "tekken_240911.json, version v3, packaged, because the folder has none"


def test_a_relative_with_a_merge(tmp_path: Path) -> None:
    summary = describe(full_size(tmp_path / "small", SMALL_31))
    assert summary.family == "Mistral Small 3.1 or 3.2"
    assert summary.largest_image_tokens == 55 * 56
    # 1024 pixels are 36.6 tokens of 28 pixels, so 37 rows of 37 and their breaks.
    assert summary.kv_bytes_per_megapixel_image == 37 * 38 * 160 * 1024
    assert summary.adapter_parameters == 1024 + 4096 * 1024 + 1024 * 5120 + 5120 * 5120


def test_a_model_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = full_size(tmp_path / "Pixtral-12B-2409", PIXTRAL_12B)
    write_mistral_folder(tmp_path / "tiny")
    (folder / "tekken.json").write_bytes((tmp_path / "tiny" / "tekken.json").read_bytes())
    monkeypatch.setattr(load, "available_bytes", lambda device: 16_000_000_000)
    with pytest.raises(
        CheckpointError, match=r"Pixtral-12B-2409 needs 25\.37 GB .*16\.00 GB of cpu memory is free; close"
    ):
        load_model(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"needs 50\.73 GB"):
        load_model(folder, device="cpu", dtype="float32")


def test_dtype_and_device_are_chosen_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    write_mistral_folder(folder)
    small = load_model(folder, device="cpu")
    assert {p.dtype for p in small.model.parameters()} == {torch.float32}  # small: exact and faster
    assert not small.model.training
    assert not any(p.requires_grad for p in small.model.parameters())
    monkeypatch.setattr(load, "SMALL_BYTES", 1000)
    assert load_model(folder, device="cpu").model.dtype == torch.bfloat16  # the checkpoint's own
    assert load_model(folder, device="cpu", dtype="float16").model.dtype == torch.float16
    with pytest.raises(UsageError, match=r"dtype 'int4' is unknown; use auto, float32, bfloat16, float16"):
        load_model(folder, dtype="int4")
    with pytest.raises(UsageError, match=r"device 'tpu' is unknown; use auto, cpu, cuda"):
        load_model(folder, device="tpu")
    with pytest.raises(UsageError, match=r"device 'cuda:99' does not exist: this machine has \d+ CUDA devices"):
        load_model(folder, device="cuda:99")


def test_the_tokenizer_must_be_the_models_own(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "mistral")
    convert(tmp_path / "mistral", tmp_path / "hf", "hf")
    for folder in (tmp_path / "mistral", tmp_path / "hf"):
        tokenizer = (folder / "tekken.json").read_bytes()
        (folder / "tekken.json").unlink()
        with pytest.raises(
            CheckpointError, match=r"has no tekken\.json.*`tessera download mistralai/Pixtral-12B-2409`"
        ):
            load_model(folder)
        (folder / "tekken.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"tekken\.json is not "):
            load_model(folder)
        (folder / "tekken.json").write_bytes(tokenizer)
        load_model(folder)
    (tmp_path / "hf" / "tekken.json").write_bytes(packaged_tokenizer_path().read_bytes())
    with pytest.raises(CheckpointError, match=r"the tokenizer has 131072 ids and the model 1280"):
        load_model(tmp_path / "hf")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], r"unknown layout: .*params\.json.*config\.json.*`tessera download mistralai/Pixtral-12B-2409`"),
        (["pixtral-12b.Q4_K_M.gguf"], r"holds GGUF files, .*give \S*pixtral-12b\.Q4_K_M\.gguf"),
        (["params.json"], r"half a model: params\.json is there, consolidated\.safetensors is missing; .*`tessera"),
        (["consolidated.safetensors"], r"half a model: .*params\.json is missing"),
        (["config.json"], r"half a model: .*model\*\.safetensors is missing"),
        (["model.safetensors"], r"half a model: .*config\.json is missing"),
        (
            ["config.json", "pytorch_model-00001-of-00002.bin"],
            r"pytorch_model-00001-of-00002\.bin, a pickle.*safetensors",
        ),
        (["params.json", "consolidated.00.pth"], r"consolidated\.00\.pth, a pickle"),
        (["config.json", "model-00001-of-99999999999.safetensors"], r"is not a whole safetensors file"),
        (
            ["config.json", "model-00001-of-00002.safetensors"],
            r"model-00002-of-00002\.safetensors, one of 2, is missing",
        ),
    ],
    ids=str,
)
def test_half_a_model_is_named_with_its_cure(files: list[str], says: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").exists() and (tmp_path / "config.json").write_text(json.dumps(PIXTRAL_12B_HF))
    with pytest.raises(CheckpointError, match=says) as refused:
        describe(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_folder_with_both_layouts_is_read_as_the_official_one(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "a", MERGED)
    convert(tmp_path / "a", tmp_path / "b", "hf")
    for file in (tmp_path / "b").iterdir():
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    assert describe(tmp_path / "a").layout == "mistral"
    (tmp_path / "a" / "params.json").unlink()
    assert describe(tmp_path / "a").layout == "hf"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pixtrall", r"'pixtrall' is neither 'nano', nor a folder, nor a hub id like mistralai/Pixtral-12B-2409"),
        ("/no/such/folder", r"'/no/such/folder' is neither 'nano', nor a folder"),
        ("~nobody-here/tiny", r"'~nobody-here/tiny' is neither"),
        ("./models/tiny", r"'\./models/tiny' is neither"),
        (
            "models/tiny",
            r"'models/tiny' is neither a folder nor a model in the hub's cache.*`tessera download models/tiny`",
        ),
    ],
)
def test_names_that_lead_nowhere(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=says):
        load.find_model(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ModelNotFoundError, match=r"model\.bin is a file but not a GGUF file; give the folder"):
        load.find_model(str(tmp_path / "model.bin"))
    with pytest.raises(ModelNotFoundError, match=r"not a folder"):
        describe(tmp_path / "absent")


def test_a_file_or_folder_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("x")
    for name in ("nano", str(tmp_path), str(tmp_path / "model.gguf")):
        with pytest.raises(UsageError, match=r"is a model on this machine; leave out revision"):
            load.find_model(name, "v1")
        with pytest.raises(UsageError, match=r"is a model on this machine; leave out revision"):
            load.find_model(name, None, tmp_path)


def test_a_gpu_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's set_device refuses one without."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    assert [load.target_device(name) for name in ("auto", "cuda", "cuda:0")] == [
        torch.device("cuda", 1), torch.device("cuda", 1), torch.device("cuda", 0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"device 'cuda:2' does not exist"):
        load.target_device("cuda:2")


def test_a_folder_is_found_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mistral_folder(tmp_path / "tiny", LLAVA)
    monkeypatch.chdir(tmp_path)
    assert load_model(load.find_model("tiny")).name == "tiny"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load.find_model("~/tiny") == tmp_path / "tiny"


def test_options_beside_what_holds_them_are_refused() -> None:
    source = load.ModelSource(name="nano", dtype="float32")
    assert load.ModelSource.of(source) is source
    assert load.ModelSource.of("nano", dtype="float32", device="auto") == source
    with pytest.raises(
        UsageError, match=r"^dtype, device came with a ModelSource, which already decides that; leave it out\.$"
    ):
        load.ModelSource.of(source, dtype="auto2", device="cpu", revision=None)
    loaded = load.load_model(source)
    with pytest.raises(UsageError, match=r"^dtype came with a LoadedModel"):
        LLM(loaded, dtype="float32")
    with LLM(loaded, kv_cache_bytes=2**22) as llm:
        assert llm.model_name == "nano"
