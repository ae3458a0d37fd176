"""A model from a folder in one call, as the tests load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera import load
from tessera.load import Check, LoadedModel, ModelSource
from tessera.weights.fill import Progress


def load_model(
    folder: Path | str, *, progress: Progress | None = None, check: Check | None = None, rank: int = 0, **how: Any
) -> LoadedModel:
    """What `tessera.load.load_model` makes of a folder, a file or a name; `how` are a ModelSource's other fields."""
    return load.load_model(ModelSource(name=str(folder), **how), progress=progress, check=check, rank=rank)
