"""An adapter as its user meets it: given to LLM and to the command line, it answers as the merged model does."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.cli import app as cli
from tessera.errors import CheckpointError
from tessera.llm import LLM
from tessera.load import load_model
from tessera.lora.files import read_adapter
from tessera.lora.peft import write_peft
from tessera.messages import Message
from tessera.sampling import SamplingParams
from tessera.shelf import ModelSource
from tests.lora.adapters import random_adapter
from tests.weights.checkpoints import LLAVA, write_mistral_folder, write_tokenizer

DEMO = Path(__file__).parents[2] / "tessera" / "nano" / "demo"
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mistral_folder(tmp_path / "base", dtype=torch.float32)
    write_tokenizer(tmp_path / "base" / "tekken.json")
    write_peft(random_adapter(LLAVA), tmp_path / "adapter", LLAVA)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tessera", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code))


def answer(llm: LLM) -> str:
    with llm:
        return llm.chat([Message("user", ("Hello",))], PARAMS).text


def test_llm_answers_as_the_merged_model_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        monkeypatch, "merge", folder / "adapter", "--into", "mistral", "--out", folder / "m", "-m", folder / "base"
    )
    assert code == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert shown.out == f"{folder / 'm'}\n"
    assert "the full weights of base, in float32: decoder 14/14, vision 14/14, adapter 2/2" in shown.err
    beside = LLM(folder / "base", adapter=folder / "adapter")
    assert "decoder 14/14, vision 14/14, adapter 2/2" in beside.notes[-1]
    found = answer(beside)
    assert found == answer(LLM(folder / "m")) != answer(LLM(folder / "base"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--base", "quantized", "-m", "base"], "full weights"),
        (["--type", "bf16", "-m", "base"], "is for GGUF files"),
        ([], "does not say which model"),
    ],
    ids=str,
)
def test_a_merge_that_cannot_be_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, "merge", "adapter", "--into", "hf", "--out", "out", *options) == 2
    assert said in capsys.readouterr().err


def test_another_model_s_adapter_is_refused_before_weights_are_read(folder: Path) -> None:
    write_mistral_folder(folder / "other", replace(LLAVA, n_layers=1))
    write_tokenizer(folder / "other" / "tekken.json")
    shown: list[str] = []
    with pytest.raises(CheckpointError, match="one of 14 such tensors of 60, matches no linear"):
        load_model(
            ModelSource(name=str(folder / "other"), adapter=folder / "adapter"),
            progress=lambda name, done, total: shown.append(name),
        )
    assert shown == []


def test_an_adapter_s_way_is_the_server_s_with_an_endpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ask", "Hi", "--adapter", folder / "adapter", "--endpoint", "http://127.0.0.1:9") == 2
    assert "--adapter and --endpoint exclude each other" in capsys.readouterr().err


def test_an_adapter_is_written_for_other_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = read_adapter(folder / "adapter", LLAVA).only(("decoder",)).digest
    for to, name, left_out in (("gguf", "a.gguf", "llama.cpp loads"), ("mistral", "m", "mistral-inference loads")):
        code = run(
            monkeypatch, "adapter", "convert", folder / "adapter", folder / name, "--to", to, "-m", folder / "base"
        )
        shown = capsys.readouterr()
        assert (code, shown.out) == (0, f"{folder / name}\n"), shown.err
        assert "an adapter of base: decoder 14/14, vision 14/14, adapter 2/2" in shown.err
        assert left_out in shown.err
    assert read_adapter(folder / "a.gguf", LLAVA).digest == digest
    assert read_adapter(folder / "m", LLAVA).counts(LLAVA) == "decoder 14/14, vision 0/14, adapter 0/2"
    back = "adapter", "convert", folder / "a.gguf", folder / "again", "--to", "peft"
    assert run(monkeypatch, *back) == 2
    assert "does not say which model" in capsys.readouterr().err
    assert run(monkeypatch, *back, "-m", folder / "base") == 0
    assert read_adapter(folder / "again", LLAVA).digest == digest


COMMANDS = {
    "extract": ["receipt.png", "--schema", "preset:receipt", "--out", "rows.jsonl"],
    "transcribe": ["receipt.png", "--out", "text.md"],
    "batch": ["requests.jsonl", "replies.jsonl"],
    "eval": ["own.jsonl", "--out", "run", "--max-tokens", "8"],
}


@pytest.fixture
def documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What every command reads, in the current folder."""
    monkeypatch.chdir(folder)
    (folder / "receipt.png").write_bytes((DEMO / "receipt.png").read_bytes())
    request = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    (folder / "requests.jsonl").write_text(json.dumps({"custom_id": "a", "body": request}) + "\n")
    (folder / "own.jsonl").write_text(json.dumps({"question": "Hello", "answer": "x"}) + "\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_opens_a_model_takes_an_adapter(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    own = ["-m", "base", "--adapter", "adapter"]
    assert run(monkeypatch, command, *COMMANDS[command], *own, "--endpoint", "http://127.0.0.1:9") == 2
    said = capsys.readouterr().err
    assert "--adapter and --endpoint exclude each other: the server has adapters as models" in said
    assert run(monkeypatch, command, *COMMANDS[command], "-m", "base", "--adapter", "none") == 2
    assert "none is no LoRA adapter" in capsys.readouterr().err


def test_a_batch_is_answered_with_the_adapter_and_does_not_go_on_with_another(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "batch", *COMMANDS["batch"], "-m", "base", "--adapter", "adapter", "-q") == 0
    reply = json.loads((documents / "replies.jsonl").read_text())["response"]["body"]["choices"][0]["message"]
    with LLM("base", adapter="adapter") as llm:
        assert llm.chat([Message("user", ("Hello",))], SamplingParams(max_tokens=12)).text == reply["content"]
    (documents / "replies.jsonl").unlink()
    write_peft(random_adapter(LLAVA, scale=1.0), documents / "other", LLAVA)
    for adapter in ([], ["--adapter", "other"]):
        assert run(monkeypatch, "batch", *COMMANDS["batch"], "-m", "base", *adapter, "-q") == 2
        assert "--force" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_and_an_extraction_know_their_adapter(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "eval", *COMMANDS["eval"], "-m", "base", "--adapter", "adapter", "-q") == 0
    assert run(monkeypatch, "eval", *COMMANDS["eval"], "-m", "base", "-q") == 2
    assert "--force" in capsys.readouterr().err
    assert run(monkeypatch, "transcribe", *COMMANDS["transcribe"], "-m", "base", "--adapter", "adapter", "-q") in (0, 1)
    assert (documents / "text.md").is_file()
