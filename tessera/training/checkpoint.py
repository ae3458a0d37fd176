"""Checkpoints of a training run: one safetensors file, replaced whole or not at all.

The file holds every tensor needed to resume as if the run had never stopped, and the step
number in its header. A run killed while saving leaves the previous checkpoint untouched.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.machine import written_whole


def save_checkpoint(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    """Write `tensors` and the number of finished steps to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as partial:
        save_file(held, partial, {"step": str(step)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], int]:
    """Return the tensors and the number of finished steps; raises CheckpointError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, int(metadata["step"])  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a training checkpoint; remove it to start the run anew.") from error
