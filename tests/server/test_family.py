"""A small random Ministral 3, from its folder to an answer: described, served and asked, in both layouts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tessera.summary import describe
from tessera.weights.convert import convert
from tests.server.conftest import asking, run_server
from tests.tokenizers import NANO, ours, tekken
from tests.weights.checkpoints import TIED, write_mistral_folder


def write_ministral(folder: Path) -> Path:
    """A random model of Ministral 3's kind in the official layout, with a tokenizer of its version of the format."""
    vocab = json.loads(NANO.read_text())["config"]["default_vocab_size"]
    write_mistral_folder(folder, dataclasses.replace(TIED, vocab_size=vocab))
    shutil.copyfile(tekken("v13"), folder / "tekken.json")
    return folder


@pytest.mark.parametrize("layout", ["mistral", "hf"])
def test_ministral_is_described_served_and_asked(layout: str, tmp_path: Path) -> None:
    folder = write_ministral(tmp_path / "own")
    if layout != "mistral":
        convert(folder, tmp_path / "other", layout)
        folder = tmp_path / "other"
    summary = describe(folder)
    assert summary.layout == layout
    running = run_server(model=str(folder), device="cpu")
    try:
        response = running.post("/v1/chat/completions", asking(max_tokens=3, ignore_eos=True, temperature=0))
    finally:
        running.stop()
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 3


def test_marks_of_reasoning_are_shown() -> None:
    """What a model thinks must not run into its answer."""
    tokenizer = ours("v13")
    start, end = (tokenizer.special_id(mark) for mark in ("[THINK]", "[/THINK]"))
    assert start is not None
    assert end is not None
    assert {start, end}.isdisjoint(tokenizer.prompt_only_ids)
    stream = tokenizer.detokenizer()
    a, b = tokenizer.encode_text("a")[-1], tokenizer.encode_text("b")[-1]
    assert "".join(map(stream.add, (start, a, end, b))) == "[THINK]a[/THINK]b"
    assert not ours("v3").thought_marks
