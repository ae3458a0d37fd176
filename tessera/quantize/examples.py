"""Calibration prompts, made from a folder of samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tessera.errors import UsageError
from tessera.images import load, prepare
from tessera.model.config import VisionConfig
from tessera.prompt import Prompt, Tokenizer
from tessera.samples import read_samples

QUESTION = "Describe this picture, and transcribe all text in it."
MAX_TOKENS = 32_768  # of all examples: their hidden states stay in memory, 330 MB for Pixtral 12B in bfloat16


@dataclass(frozen=True)
class Examples:
    """Prompts, each with its answer if it has one."""

    prompts: tuple[Prompt, ...]
    left_out: int  # examples beyond MAX_TOKENS

    def describe(self) -> str:
        """Example: "48 of 48, 8,846 tokens, sha256:..."; the digest identifies the examples."""
        seen = hashlib.sha256()
        for prompt in self.prompts:
            seen.update(json.dumps(prompt.ids).encode() + b"".join(span.image.digest for span in prompt.images))
        used = len(self.prompts)
        return f"{used} of {used + self.left_out}, {self.num_tokens:,} tokens, sha256:{seen.hexdigest()}"

    @property
    def num_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


def read_examples(folder: Path, tokenizer: Tokenizer, vision: VisionConfig) -> Examples:
    """Read the folder's examples in order, up to MAX_TOKENS; raises UsageError, or ImageError for a damaged image."""
    prompts: list[Prompt] = []
    used = left_out = 0
    for sample in read_samples(folder, QUESTION):
        if left_out:
            left_out += 1
            continue
        images = [prepare(load(image), vision) for message in sample.messages for image in message.images]
        prompt = tokenizer.encode_chat(sample.turns, images)
        used += len(prompt.ids)
        if used > MAX_TOKENS:
            left_out = 1
        else:
            prompts.append(prompt)
    if not prompts:
        raise UsageError(
            f"the first example in {folder} has {used:,} tokens and the limit is {MAX_TOKENS:,}; shorten it."
        )
    return Examples(tuple(prompts), left_out)
