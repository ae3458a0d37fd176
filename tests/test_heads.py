"""Heads beside a model's weights: written, read, and refused when they are not the model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tessera.chat import Head
from tessera.errors import CheckpointError
from tessera.heads import heads_file, read_heads, write_heads
from tessera.llm import LLM
from tessera.model.fingerprint import fingerprint
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.sampling import SamplingParams
from tests.engine.tiny import CONFIG, VISION, tiny_model
from tests.test_llm import ask, red

HEADS = {Head(1, 3, 1): 0.9, Head(0, 2): 0.8}


def test_heads_are_read_as_written(tmp_path: Path) -> None:
    path = heads_file(tmp_path)
    assert read_heads(path, CONFIG) == ()
    write_heads(path, HEADS, {"model": "m"})
    assert read_heads(path, CONFIG) == tuple(HEADS)
    assert heads_file(tmp_path / "model.gguf") == tmp_path / "model.boxes.json"


@pytest.mark.parametrize("head", [Head(2, 0), Head(0, 4), Head(0, 0, 2), Head(-1, 0)])
def test_heads_that_the_model_lacks_are_refused(tmp_path: Path, head: Head) -> None:
    write_heads(tmp_path / "boxes.json", {head: 1.0}, {})
    with pytest.raises(CheckpointError, match="2 layers with 4 heads"):
        read_heads(tmp_path / "boxes.json", CONFIG)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "tessera boxes", "version": 2, "heads": []}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_heads(tmp_path / "boxes.json", CONFIG)


def test_an_llm_locates_the_printed_characters_of_a_reply() -> None:
    model = tiny_model(dataclasses.replace(CONFIG, vocab_size=131072))
    with LLM.from_parts(model, Tokenizer.from_file(packaged_tokenizer_path(), VISION), name="tiny") as llm:
        conversation, text = ask("what is this?", red()), '{"a": "two words"}'
        spans = [(7, 16), (0, 0), (0, 1)]
        assert llm.locate(conversation, text, spans) is None  # it has no heads of its own
        located = llm.locate(conversation, text, spans, list(HEADS))
        assert located is not None
        words = len(llm.encode("two", bos=False)) + len(llm.encode(" words", bos=False))
        assert (len(located[0]), len(located[1]), len(located[2])) == (words, 0, 1)
        for look in (*located[0], *located[2]):
            assert [glance.grid for glance in look] == [(2, 3)] * len(HEADS)
            assert all(0 < glance.weight <= 1 and glance.row < 2 and glance.column < 3 for glance in look)
        assert llm.locate(ask("no picture"), text, spans, list(HEADS)) == [[], [], []]
        reply = llm.chat(conversation, SamplingParams(max_tokens=4, ignore_eos=True))
        assert llm.locate(conversation, reply, [(0, len(reply.text))], list(HEADS)) is not None


def test_a_fingerprint_tells_weights_apart_and_not_their_dtype() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    before = fingerprint(model)
    assert before == fingerprint(tiny_model())
    assert before != fingerprint(other)
    rounded = tiny_model().to(torch.bfloat16)
    again = fingerprint(rounded)
    assert again == fingerprint(rounded.float())
