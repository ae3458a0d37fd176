"""The heads of a model that look at what is read, in a small file beside its weights: boxes are made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.chat import Head
from tessera.errors import CheckpointError
from tessera.machine import written_whole
from tessera.model.config import ModelConfig

NAME = "boxes.json"
FORMAT, VERSION = "tessera boxes", 1
MAX_HEADS = 16
MAX_BYTES = 2**20


def heads_file(model: Path) -> Path:
    """Return where the heads of a model in this folder, or GGUF file, are kept."""
    return beside(model, NAME)


def beside(model: Path, name: str) -> Path:
    """Return where a file about a model in this folder, or GGUF file, is kept."""
    return model / name if model.is_dir() else model.with_suffix("." + name)


def read_heads(path: Path, config: ModelConfig) -> tuple[Head, ...]:
    """Read the heads; none if there is no file. Raises CheckpointError for a damaged one, or another model's."""
    if not path.is_file():
        return ()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError
        values = json.loads(path.read_text(encoding="utf-8"))
        if (values["format"], values["version"]) != (FORMAT, VERSION):
            raise ValueError
        heads = tuple(Head(int(each["layer"]), int(each["head"]), int(each["before"])) for each in values["heads"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged; make it again with `tessera boxes calibrate`.") from error
    if len(heads) > MAX_HEADS or not all(_fits(head, config) for head in heads):
        raise CheckpointError(
            f"{path} names heads that a model of {config.n_layers} layers with {config.n_heads} heads lacks, or more "
            f"than {MAX_HEADS}; make it again with `tessera boxes calibrate`."
        )
    return heads


def write_heads(path: Path, heads: Mapping[Head, float], facts: Mapping[str, Any]) -> None:
    """Write the heads with the share of characters at which each looked, and facts on how they were found."""
    listed = [
        {"layer": head.layer, "head": head.head, "before": head.before, "right": round(right, 4)}
        for head, right in heads.items()
    ]
    with written_whole(path) as partial:
        text = json.dumps({"format": FORMAT, "version": VERSION, "heads": listed, **facts}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")


def _fits(head: Head, config: ModelConfig) -> bool:
    return 0 <= head.layer < config.n_layers and 0 <= head.head < config.n_heads and head.before in (0, 1)
