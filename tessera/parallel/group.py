"""The ranks of one model as a group that can sum, join and hand out tensors.

A group is an object of its own, not the process's one default group, so that a program may open two
models. Ranks are processes of one machine: they meet through a file that only its owner can read, and
gloo listens on the loopback interface. Nothing here knows the model.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tessera.errors import UsageError

# Between two collectives of a step the ranks do equal work; one that is this late will not come.
TIMEOUT = timedelta(minutes=10)
MEETING = timedelta(minutes=1)  # all have loaded by then


class Group:
    """One of `size` ranks; all of them must call the same methods in the same order."""

    def __init__(self, size: int, backend: Any) -> None:
        self.size = size
        self._backend = backend  # torch.distributed's ProcessGroupGloo or ProcessGroupNCCL

    def all_reduce(self, partial: Tensor) -> Tensor:
        """The sum of all ranks' tensors, the same on each; it takes the memory of `partial`."""
        partial = partial.contiguous()
        self._backend.allreduce([partial]).wait()
        return partial

    def all_gather(self, part: Tensor) -> Tensor:
        """All ranks' tensors, of one shape, side by side along the last dimension."""
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self._backend.allgather([parts], [part.contiguous()]).wait()
        return torch.cat(parts, dim=-1)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor on every rank; the others give one of its shape, which is written to."""
        tensor = tensor.contiguous()
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._backend.broadcast([tensor], options).wait()
        return tensor

    def abort(self) -> None:
        """End what waits for ranks that will not come."""
        if hasattr(self._backend, "abort"):
            self._backend.abort()


def connect(folder: Path, rank: int, size: int, device: torch.device) -> Group:
    """Wait for all ranks that meet in this folder; raises UsageError where torch cannot connect such devices."""
    store = torch._C._distributed_c10d.FileStore(str(folder / "ranks"), size)
    store.set_timeout(MEETING)
    backend: Any
    if device.type == "cpu":
        backend = dist.ProcessGroupGloo
        options = backend._Options()
        options._devices = [backend.create_device(hostname="127.0.0.1")]
    elif dist.is_nccl_available():
        backend = dist.ProcessGroupNCCL
        options = backend.Options()
    else:
        raise UsageError("this PyTorch has no NCCL, which joins GPUs; install one that has, or use one device.")
    options._timeout = TIMEOUT
    group = Group(size, backend(store, rank, size, options))
    group.all_reduce(torch.zeros(1, device=device))  # connects: the file is not needed after it
    return group
