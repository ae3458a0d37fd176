"""Shell completion of values: models on this machine, and the values of a few options."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tessera.shelf import ALIASES, made_models


def among(*values: str) -> Callable[[str], list[str]]:
    """Complete from these values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Nano, the short names, and models in the hub's cache; the shell itself adds no files."""
    made = [folder.name for folder in made_models().glob("*") if folder.is_dir()]
    return [name for name in ("nano", *sorted({*ALIASES, *made}), *hub_names()) if name.startswith(incomplete)]


def hub_names() -> list[str]:
    """Hub ids of the models in the hub's cache, from its folder names."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in cache.glob("models--*--*"))
