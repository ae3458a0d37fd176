"""Tokenizers of every version of the chat format, ours and mistral-common's own, over one small vocabulary.

Only some versions are packaged with mistral-common. The others are made here of nano's vocabulary, with the
special tokens that each version looks up by name.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

import tessera.nano
from tessera.prompt import Tokenizer
from tests.engine.tiny import VISION

NANO = Path(tessera.nano.__file__).parent / "weights" / "tekken.json"
VERSIONS = ("v3", "v7", "v11", "v13", "v15")
LATER_PIECES = {
    17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]", 20: "[ARGS]", 21: "[CALL_ID]",
    30: "[THINK]", 31: "[/THINK]", 32: "[MODEL_SETTINGS]", 33: "[/MODEL_SETTINGS]",
}  # fmt: skip


@cache
def tekken(version: str) -> Path:
    """Nano's tokenizer as a file of another version."""
    if version == "v3":
        return NANO
    content = json.loads(NANO.read_text(encoding="utf-8"))
    content["config"]["version"] = version
    if version == "v15":
        content["model_settings_builder"] = {}
    nano = MistralTokenizer.from_file(NANO).instruct_tokenizer.tokenizer
    names = [LATER_PIECES.get(token_id, nano.id_to_piece(token_id)) for token_id in range(1000)]
    content["special_tokens"] = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
    ]
    path = Path(tempfile.mkdtemp()) / "tekken.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@cache
def ours(version: str) -> Tokenizer:
    return Tokenizer.from_file(tekken(version), VISION)


@cache
def theirs(version: str) -> MistralTokenizer[Any, Any, Any, Any, Any]:
    return MistralTokenizer.from_file(tekken(version), mode=ValidationMode.serving)


def show(version: str, ids: list[int] | tuple[int, ...]) -> str:
    """The ids as text, special tokens by their names."""
    tokenizer = ours(version)
    runs: list[str] = []
    for token_id in ids:
        special = token_id in tokenizer.special_ids
        runs.append(tokenizer.token_text(token_id) if special else tokenizer.token_bytes(token_id).decode("latin-1"))
    return "".join(runs).encode("latin-1").decode()
