"""The processes of one training run, started by torchrun or by another launcher that sets its environment.

Rank 0 alone reads the data, logs and writes. The first rank that fails leaves its message in the launcher's store,
so that all end, and one message is shown: the others only lose their connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tessera.errors import TesseraError, UsageError
from tessera.parallel.group import Group

TIMEOUT = timedelta(minutes=30)  # rank 0 writes a model meanwhile
LOST = ("connection", "peer", "socket", "store", "gloo", "nccl", "timed out", "timeout")
MAX_MESSAGE = 2000
ValueT = TypeVar("ValueT")


class Ranks:
    """This process's place among `size`; all must call the same methods in the same order. One rank waits for none."""

    def __init__(self, rank: int = 0, size: int = 1, on_machine: int = 1) -> None:
        self.rank, self.size, self.on_machine = rank, size, on_machine

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def group(self) -> Group | None:
        """Return the group that sums gradients, or None for one rank."""
        return None if self.size == 1 else Group(self.size, dist.group.WORLD)

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def gather(self, value: ValueT) -> list[ValueT]:
        """Return every rank's value, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, work: Callable[[], ValueT]) -> ValueT:
        """Let rank 0 alone work, and return its result on every rank."""
        if self.size == 1:
            return work()
        values = [work() if self.first else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]


def local_device(device: str) -> str:
    """Return this rank's own GPU for "auto" and "cuda" where a launcher counts the ranks of a machine."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or _size() == 1 or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    if int(local) >= torch.cuda.device_count():
        raise UsageError(
            f"rank {_rank()} would be number {local} of this machine, which has {torch.cuda.device_count()} GPUs; "
            "start as many processes as there are GPUs, or choose the device cpu."
        )
    return f"cuda:{local}"


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the ranks that the environment names, if it does; an error inside ends all of them."""
    if _size() == 1:
        yield Ranks()
        return
    ranks = Ranks(_rank(), _size(), int(os.environ.get("LOCAL_WORLD_SIZE", _size())))
    began = not dist.is_initialized()  # Ray Train has joined them already
    if began:
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"rank {ranks.rank} of {ranks.size} could not join the others; start the command with torchrun, or "
                "unset WORLD_SIZE for one process."
            ) from error
    try:
        yield ranks
    except BaseException as error:
        blamed = _blamed(error, ranks)
        if blamed is error:
            raise
        raise blamed from error
    if began:
        dist.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _blamed(error: BaseException, ranks: Ranks) -> BaseException:
    """Return what this rank ends with: the error with its rank, or a silent end if another has failed before."""
    lost = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)
    text = "another rank has ended; the same command goes on from the last state" if lost else str(error)
    if not isinstance(error, TesseraError) and not lost:
        text = f"{type(error).__name__}: {text}"
    said = f"rank {ranks.rank}: {text[:MAX_MESSAGE]}"
    try:
        store = dist.distributed_c10d._get_default_store()
        key = f"tessera/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        won = store.compare_set(key, "", said).decode() == said
    except (RuntimeError, ValueError):  # the store's own process has ended
        won = True
    if not won:
        return SystemExit(1)
    if not isinstance(error, Exception):
        return error
    if isinstance(error, TesseraError):
        error.args = (said,)
        return error
    return TesseraError(said)
