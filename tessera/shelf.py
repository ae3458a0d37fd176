"""Models by short names, and the folder in which Tessera keeps what it makes: `pixtral`, `pixtral-4bit`.

A short name means a repository of the hub, or a folder that `tessera quantize` wrote where no other was named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ALIASES = {"pixtral": "mistralai/Pixtral-12B-2409"}
QUANTIZED = re.compile(r"(?P<model>.+)-(?P<bits>4bit|8bit|fp8)")
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


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
