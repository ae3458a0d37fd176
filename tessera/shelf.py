"""Models by name: how one is opened, the short names such as `pixtral-4bit`, and the folder of those made here.

A short name means a repository of the hub, or a folder that `tessera quantize` wrote where no other was named.
Nothing here reads a model: the command line imports this file before it imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tessera.errors import UsageError

BUNDLED = "nano"
ALIASES = {"pixtral": "mistralai/Pixtral-12B-2409"}
QUANTIZED = re.compile(r"(?P<model>.+)-(?P<bits>4bit|8bit|fp8)")
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Which model is opened, and how; `tessera.load` opens it."""

    name: str = BUNDLED  # or a folder, a GGUF file, a hub id or a short name
    mmproj: Path | None = None  # a GGUF model's picture part; None: looked for beside the text model's file
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None  # of a hub id: a branch, tag or commit
    download_dir: Path | None = None  # the hub's cache that holds a hub id; None: the usual one
    tensor_parallel_size: int = 1  # processes that share the model

    @classmethod
    def of(cls, named: str | Path | ModelSource, **given: Any) -> ModelSource:
        """A source from a name and its options, or a whole one; raises UsageError where options come beside that."""
        if not isinstance(named, ModelSource):
            return cls(name=str(named), **given)
        check_alone(named, given)
        return named


def check_alone(opened: object, given: Mapping[str, Any]) -> None:
    """Raise UsageError for options of a ModelSource beside what holds them already."""
    defaults = {entry.name: entry.default for entry in fields(ModelSource)}
    if beside := [name for name, value in given.items() if value != defaults[name]]:
        raise UsageError(f"{', '.join(beside)} came beside a {type(opened).__name__}; leave out what that decides.")


def data_folder() -> Path:
    """Where what is made for the user lies: models and conversations; XDG_DATA_HOME moves it."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path("~/.local/share").expanduser()) / "tessera"


def made_models() -> Path:
    """The folder of quantized models that have no place of their own."""
    return data_folder() / "models"


def quantized_name(model: str, bits: str) -> str:
    """What `quantize` calls its result by default. Example: "pixtral-4bit"."""
    known = {repository: alias for alias, repository in ALIASES.items()}
    short = known.get(model, Path(model).name)
    return f"{short}-{bits}bit" if bits.isdigit() else f"{short}-{bits}"


def how_to_make(name: str) -> str | None:
    """The command that makes the model of a short name; None where none is known to."""
    if name in ALIASES:
        return f"tessera download {name}"
    found = QUANTIZED.fullmatch(name)
    if found is None or found["model"] not in ALIASES:
        return None
    return f"tessera quantize {found['model']} --bits {found['bits'].removesuffix('bit')}"
