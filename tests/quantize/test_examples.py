"""The examples of a calibrated run: what a folder gives, and what it must not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image as PILImage

from tessera.errors import ImageError, UsageError
from tessera.prompt import Tokenizer
from tessera.quantize import examples
from tests.weights.checkpoints import VISION, write_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path / "tekken.json")
    return Tokenizer.from_file(tmp_path / "tekken.json", VISION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cal").mkdir()
    for name in ("b.png", "a.jpg"):
        PILImage.new("RGB", (40, 20), "white").save(tmp_path / "cal" / name)
    (tmp_path / "cal" / "notes.txt").write_text("no image")
    return tmp_path / "cal"


def label(folder: Path, *lines: object) -> None:
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_images_alone_are_asked_one_question(folder: Path, tokenizer: Tokenizer) -> None:
    found = examples.read_examples(folder, tokenizer, VISION)
    assert len(found.prompts) == 2
    assert all(tokenizer.decode(prompt.ids).endswith(examples.QUESTION) for prompt in found.prompts)
    assert [prompt.images[0].length for prompt in found.prompts] == [2 * 4, 2 * 4]


def test_labels_give_question_and_answer(folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"image": "b.png", "question": "What?"}
    label(folder, {**asked, "answer": "white", "skill": "any"}, asked)
    found = examples.read_examples(folder, tokenizer, VISION)
    assert [tokenizer.decode(prompt.ids) for prompt in found.prompts] == ["What?white", "What?"]
    assert found.left_out == 0
    monkeypatch.setattr(examples, "MAX_TOKENS", found.num_tokens - 1)
    fewer = examples.read_examples(folder, tokenizer, VISION)
    assert (len(fewer.prompts), fewer.left_out) == (1, 1)
    assert found.describe().startswith(f"2 of 2, {found.num_tokens} tokens, sha256:")
    assert fewer.describe()[-64:] != found.describe()[-64:]
    monkeypatch.setattr(examples, "MAX_TOKENS", 3)
    with pytest.raises(UsageError, match=r"the first example in .*cal has \d+ tokens and the limit is 3"):
        examples.read_examples(folder, tokenizer, VISION)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '"text"',
        '{"image": "b.png"}',
        '{"image": 3, "question": "?"}',
        '{"image": "b.png", "question": "?", "answer": 5}',
    ],
)
def test_a_wrong_line_is_named(line: str, folder: Path, tokenizer: Tokenizer) -> None:
    good = json.dumps({"image": "b.png", "question": "?"})
    (folder / "labels.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(UsageError, match=r"labels\.jsonl, line 3: a line must be a JSON object"):
        examples.read_examples(folder, tokenizer, VISION)


def test_labels_in_another_encoding_are_named(folder: Path, tokenizer: Tokenizer) -> None:
    (folder / "labels.jsonl").write_bytes('{"image": "b.png", "question": "Café?"}'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"labels\.jsonl, line 1 is not UTF-8 \(byte 35\); convert the file"):
        examples.read_examples(folder, tokenizer, VISION)


def test_what_is_not_there_is_named(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent is not a folder"):
        examples.read_examples(tmp_path / "absent", tokenizer, VISION)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty holds no samples; name a folder that holds labels\.jsonl"):
        examples.read_examples(tmp_path / "empty", tokenizer, VISION)
    label(folder, {"image": "c.png", "question": "?"})
    with pytest.raises(ImageError, match=r"c\.png does not exist"):
        examples.read_examples(folder, tokenizer, VISION)
