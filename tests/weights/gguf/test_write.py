"""What `convert --to gguf` writes is what the gguf package reads, and what a llama.cpp converter would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera.errors import UsageError
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.weights.convert import convert
from tessera.weights.gguf.read import PRINTABLE, written_token
from tessera.weights.gguf.write import merges
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, MERGED, TIED, VOCAB, edit_json, write_mistral_folder
from tests.weights.gguf.files import architecture_of, gguf_name, scaling_values


def read_back(file: Path) -> tuple[dict[str, Any], dict[str, gguf.ReaderTensor]]:
    """Metadata and tensors, by the package's own reader."""
    reader = gguf.GGUFReader(file)
    return {key: field.contents() for key, field in reader.fields.items()}, {each.name: each for each in reader.tensors}


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("config", [LLAVA, MERGED, TIED], ids=["plain", "merged", "scaled"])
def test_the_package_reads_what_was_written(kind: str, config: Any, tmp_path: Path) -> None:
    tensors = write_mistral_folder(tmp_path / "model", config)
    calls: list[tuple[str, int, int]] = []
    convert(tmp_path / "model", tmp_path / "out", "gguf", kind=kind, progress=lambda *call: calls.append(call))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"out.{kind.upper()}.gguf", "mmproj-out.gguf", "tekken.json",
    }  # fmt: skip
    text, text_tensors = read_back(tmp_path / "out" / f"out.{kind.upper()}.gguf")
    vision, vision_tensors = read_back(tmp_path / "out" / "mmproj-out.gguf")
    assert calls[-1][1:] == (sum(int(each.n_bytes) for each in (text_tensors | vision_tensors).values()),) * 2
    broken = vision_tensors.pop("v.token_embd.img_break")
    assert np.array_equal(broken.data, tensors["tok_embeddings.weight"][12].float().numpy())
    assert {gguf_name(name, config) for name in tensors} == text_tensors.keys() | vision_tensors.keys()
    for name, tensor in tensors.items():
        theirs = gguf_name(name, config)
        found = (text_tensors | vision_tensors)[theirs]
        wanted = Kind.F32 if tensor.ndim != 2 else Kind.BF16 if theirs in vision_tensors else Kind[kind.upper()]
        if kind == "q4_0" and theirs in ("token_embd.weight", "output.weight"):
            wanted = Kind.Q8_0
        assert found.tensor_type == wanted
        assert tuple(found.shape[::-1]) == tuple(tensor.shape)
        assert found.data.tobytes() == gguf.quants.quantize(tensor.float().numpy(), wanted).tobytes(), name
    arch = architecture_of(config)
    assert text["general.architecture"] == arch
    for key, value in scaling_values(config).items():
        assert text.pop(key) == (value if isinstance(value, str | int) else np.float32(value))
    assert not [key for key in text if ".scaling." in key or "temperature" in key]
    assert vision["clip.projector_type"] == "pixtral"
    assert len(text["tokenizer.ggml.tokens"]) == len(text["tokenizer.ggml.token_type"]) == VOCAB
    loaded = load_model(tmp_path / "out" / f"out.{kind.upper()}.gguf", device="cpu")
    assert loaded.config == config
    if kind == "bf16":
        assert all(torch.equal(loaded.model.get_parameter(name).data, tensors[name].float()) for name in tensors)


def test_float64_becomes_float32(tmp_path: Path) -> None:
    """ggml computes nothing with F64."""
    tensors = write_mistral_folder(tmp_path / "model", dtype=torch.float64)
    convert(tmp_path / "model", tmp_path / "out", "gguf", kind="q8_0")
    vision, found = read_back(tmp_path / "out" / "mmproj-out.gguf")
    assert vision["general.file_type"] == gguf.LlamaFileType.ALL_F32
    assert {each.tensor_type for each in found.values()} == {Kind.F32}
    name = "vision_encoder.transformer.layers.0.attention.wq.weight"
    assert np.array_equal(found[gguf_name(name, LLAVA)].data, tensors[name].float().numpy())


def test_token_lists_are_those_of_the_packages_converter(tmp_path: Path) -> None:
    tekken = json.loads(packaged_tokenizer_path().read_text())
    tekken["vocab"] = tekken["vocab"][:6000]
    tekken["config"] |= {"num_vocab_tokens": 6000, "default_vocab_size": 7000}
    (tmp_path / "tekken.json").write_text(json.dumps(tekken))
    tokenizer = Tokenizer.from_file(tmp_path / "tekken.json", LLAVA.vision_encoder)
    theirs = gguf.vocab.MistralVocab(tmp_path)
    assert [text for text, _, _ in theirs.all_tokens()] == [written_token(tokenizer, token) for token in range(7000)]
    assert [pair.encode() for pair in theirs.extract_vocab_merges_from_model()] == merges(tokenizer)
    assert gguf.vocab.bytes_to_unicode() == PRINTABLE


def test_merges_of_three_letters() -> None:
    class Letters:
        """A vocabulary of the tokens a, b, c, ab, bc, abc."""

        vocab_size, special_ids = 6, frozenset[int]()

        def token_bytes(self, token: int) -> bytes:
            return (b"a", b"b", b"c", b"ab", b"bc", b"abc")[token]

    assert merges(Letters()) == [b"a b", b"b c", b"a bc", b"ab c"]  # type: ignore[arg-type]


def test_what_llama_cpp_has_no_place_for_is_refused(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "model")
    with pytest.raises(UsageError, match=r"type 'q4_k' is unknown; use bf16, q8_0, q4_0"):
        convert(tmp_path / "model", tmp_path / "out", "gguf", kind="q4_k")
    with pytest.raises(UsageError, match=r"type 'q8_0' is for GGUF files"):
        convert(tmp_path / "model", tmp_path / "out", "hf", kind="q8_0")
    for number, (changes, said) in enumerate(
        (
            ({"yarn.apply_scale": True}, r"yarn's apply_scale is True, and a GGUF file can only have False"),
            ({"yarn.original_max_position_embeddings": 32}, r"original context is 16, and .* can only have 32"),
            ({"yarn": None}, r"original context is 16, and .* can only have None; keep the model as it is"),
        )
    ):
        write_mistral_folder(folder := tmp_path / f"ministral-{number}", TIED)
        edit_json(folder / "params.json", **changes)
        with pytest.raises(UsageError, match=said):
            convert(folder, tmp_path / "out", "gguf")
    edit_json(tmp_path / "model" / "params.json", **{"vision_encoder.rope_theta": 500.0})
    with pytest.raises(UsageError, match=r"rope_theta is 500\.0, and a GGUF file can only have 10000\.0"):
        convert(tmp_path / "model", tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


def test_a_gguf_model_is_not_converted_again(tmp_path: Path) -> None:
    write_mistral_folder(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", "gguf")
    with pytest.raises(UsageError, match=r"out\.Q8_0\.gguf is a GGUF file.*use the model's original"):
        convert(tmp_path / "out" / "out.Q8_0.gguf", tmp_path / "back", "mistral")
