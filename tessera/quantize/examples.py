"""What a calibrated run looks at: pictures with questions and answers, as `tessera nano draw` writes them.

A folder with a labels.jsonl gives an example a line: {"image": ..., "question": ..., "answer": ...},
the answer may be left out. Any other folder gives its pictures, each with one plain question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.chat import Image, Message
from tessera.errors import UsageError
from tessera.images import load, prepare
from tessera.model.config import VisionConfig
from tessera.prompt import Prompt, Tokenizer

LABELS = "labels.jsonl"
QUESTION = "Describe this picture, and transcribe all text in it."
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
MAX_TOKENS = 32_768  # of all examples: their hidden states stay in memory, 330 MB for Pixtral 12B in bfloat16


@dataclass(frozen=True)
class Examples:
    """Prompts, each with its answer where it has one."""

    prompts: tuple[Prompt, ...]
    left_out: int  # what would have exceeded MAX_TOKENS

    def describe(self) -> str:
        """Example: "48 of 48, 8,846 tokens, sha256:..."; the digest tells other examples apart."""
        seen = hashlib.sha256()
        for prompt in self.prompts:
            seen.update(json.dumps(prompt.ids).encode() + b"".join(span.image.digest for span in prompt.images))
        used = len(self.prompts)
        return f"{used} of {used + self.left_out}, {self.num_tokens:,} tokens, sha256:{seen.hexdigest()}"

    @property
    def num_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


def read_examples(folder: Path, tokenizer: Tokenizer, vision: VisionConfig) -> Examples:
    """The folder's examples in order, up to MAX_TOKENS; raises UsageError, or ImageError for a damaged picture."""
    found = _labelled(folder) if (folder / LABELS).is_file() else _pictures(folder)
    if not found:
        raise UsageError(f"{folder} holds no {LABELS} and no pictures to calibrate with; name a folder that does.")
    prompts: list[Prompt] = []
    used = 0
    for messages in found:
        pictures = [prepare(load(image), vision) for message in messages for image in message.images]
        prompt = tokenizer.encode_chat(messages, pictures)
        used += len(prompt.ids)
        if used > MAX_TOKENS:
            break
        prompts.append(prompt)
    if not prompts:
        raise UsageError(
            f"the first example in {folder} has {used:,} tokens and the limit is {MAX_TOKENS:,}; shorten it."
        )
    return Examples(tuple(prompts), len(found) - len(prompts))


def _labelled(folder: Path) -> list[Sequence[Message]]:
    try:
        lines = (folder / LABELS).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{folder / LABELS} is not UTF-8 (byte {error.start}); convert it.") from error
    return [_messages(folder, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _messages(folder: Path, number: int, line: str) -> Sequence[Message]:
    try:
        label: Any = json.loads(line)
        name, question, answer = label["image"], label["question"], label.get("answer")
    except (ValueError, KeyError, TypeError, AttributeError):
        name = question = answer = None
    if not isinstance(name, str) or not isinstance(question, str) or not isinstance(answer, str | None):
        raise UsageError(
            f"{folder / LABELS}, line {number}: a line must be a JSON object with the texts image (a file of the "
            "folder) and question, and may have an answer."
        )
    asked = Message("user", (Image(folder / name), question))
    return [asked] if answer is None else [asked, Message("assistant", (answer,))]


def _pictures(folder: Path) -> list[Sequence[Message]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one that holds {LABELS} or pictures.")
    names = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    return [[Message("user", (Image(file), QUESTION))] for file in names]
