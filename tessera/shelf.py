"""Model sources: how a model is opened, short names such as `pixtral-4bit`, and the folder of models made here.

A short name means a repository on the hub, or a folder that `tessera quantize` wrote by default.
Nothing here reads a model: the command line imports this file before it imports torch.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tessera.errors import UsageError

BUNDLED = "nano"
ALIASES = {
    "pixtral": "mistralai/Pixtral-12B-2409",
    "pixtral-large": "mistralai/Pixtral-Large-Instruct-2411",
    "small-3.2": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "ministral-3b": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-8b": "mistralai/Ministral-3-8B-Instruct-2512",
    "ministral-14b": "mistralai/Ministral-3-14B-Instruct-2512",
}
IN_8_BIT_FLOATS = {"ministral-3b", "ministral-8b", "ministral-14b"}  # as published: not quantized to them again
SCHEMES = {"3": "int3", "4": "int4", "8": "int8", "fp8": "fp8"}  # by the value of `tessera quantize --bits`
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model to open, and how; `tessera.load` opens it."""

    name: str = BUNDLED  # or a folder, a GGUF file, a hub id or a short name
    mmproj: Path | None = None  # a GGUF model's vision part; None: looked for beside the text model's file
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None  # of a hub id: a branch, tag or commit
    download_dir: Path | None = None  # the hub's cache that holds a hub id; None: the usual one
    adapter: Path | None = None  # a LoRA adapter that the model computes with
    tensor_parallel_size: int = 1  # processes that share the model

    @classmethod
    def of(cls, named: str | Path | ModelSource, **given: Any) -> ModelSource:
        """Make a source from a name and options, or pass one through; raises UsageError for options with the latter."""
        if not isinstance(named, ModelSource):
            return cls(name=str(named), **given)
        check_alone(named, given)
        return named


def check_alone(opened: object, given: Mapping[str, Any]) -> None:
    """Raise UsageError for ModelSource options given along with an object that already holds them."""
    defaults = {entry.name: entry.default for entry in fields(ModelSource)}
    if beside := [name for name, value in given.items() if value != defaults[name]]:
        raise UsageError(
            f"{', '.join(beside)} came with a {type(opened).__name__}, which already decides that; leave it out."
        )


def data_folder() -> Path:
    """Return the folder for the user's models and conversations; XDG_DATA_HOME moves it."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path("~/.local/share").expanduser()) / "tessera"


def made_models() -> Path:
    """Return the default folder for quantized models."""
    return data_folder() / "models"


def quantized_name(model: str, bits: str) -> str:
    """Return the default name of a `quantize` result. Example: "pixtral-4bit"."""
    known = {repository: alias for alias, repository in ALIASES.items()}
    return known.get(model, Path(model).name) + _suffix(bits)


def _suffix(bits: str) -> str:
    return f"-{bits}bit" if bits.isdigit() else f"-{bits}"


def how_to_make(name: str) -> str | None:
    """Return the command that makes the model of a short name; None if there is none."""
    if name in ALIASES:
        return f"tessera download {name}"
    for model, bits in itertools.product(ALIASES, SCHEMES):
        if name == model + _suffix(bits) and not (bits == "fp8" and model in IN_8_BIT_FLOATS):
            return f"tessera quantize {model} --bits {bits}"
    return None
