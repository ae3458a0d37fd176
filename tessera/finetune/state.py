"""The state of a run between two steps: one file for an adapter, a folder of DCP's for full training.

DCP (torch.distributed.checkpoint) stores each weight as pieces with their places, so that another number of ranks can
load them. Either replaces the one before it whole, or not at all.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.machine import PARTIAL, partial_of, written_whole
from tessera.training.checkpoint import load_checkpoint, save_checkpoint
from tessera.training.ranks import Ranks

STATE, PIECES, STEP = "state.safetensors", "state-", "step"


def newest_pieces(folder: Path) -> Path | None:
    """Return the folder of full training's last state."""
    return max(folder.glob(f"{PIECES}*"), default=None)


def has_state(folder: Path, *, full: bool) -> bool:
    return newest_pieces(folder) is not None if full else (folder / STATE).exists()


def save_state(folder: Path, tensors: dict[str, Tensor], step: int, ranks: Ranks, *, full: bool) -> None:
    """Write the state after `step` steps; with full training every rank writes its pieces."""
    if not full:
        if ranks.first:
            save_checkpoint(folder / STATE, tensors, step)
        return
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save  # slow to import, and an adapter needs none

    target = folder / f"{PIECES}{step:09d}"
    partial = partial_of(target)
    if ranks.first:
        for left in folder.glob(f".{PIECES}*{PARTIAL}"):  # of a run that was killed
            shutil.rmtree(left)
    with written_whole(target, shared=True) if ranks.first else nullcontext(partial), _one_rank_is_meant():
        ranks.wait()
        try:
            save(tensors | {STEP: torch.tensor(step)}, checkpoint_id=partial, no_dist=ranks.size == 1)
        except CheckpointException as error:
            raise CheckpointError(
                f"{target}: the state could not be written whole; see that its disk has room and can be written to, "
                "then start again: the run goes on from the state before it."
            ) from error
    if ranks.first:
        for older in folder.glob(f"{PIECES}*"):
            if older != target:
                shutil.rmtree(older)


def load_state(folder: Path, into: dict[str, Tensor], ranks: Ranks, *, full: bool) -> tuple[dict[str, Tensor], int]:
    """Return the state's tensors and its step; full training's are read into `into`, the part of this rank.

    Raises CheckpointError for files that are none of a state.
    """
    if not full:
        return load_checkpoint(folder / STATE)
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    pieces = newest_pieces(folder)
    tensors = into | {STEP: torch.tensor(0)}
    try:
        with _one_rank_is_meant():
            load(tensors, checkpoint_id=pieces, no_dist=ranks.size == 1)
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{pieces} is not a whole state of full training; remove it to start anew.") from error
    return tensors, int(tensors.pop(STEP))


@contextmanager
def _one_rank_is_meant() -> Iterator[None]:
    """Hide DCP's warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
