"""The ranks of one model as a group that can sum, gather and broadcast tensors.

A group is a separate object, not the process's default group, so that a program may open two
models. Ranks are processes on one machine: they connect through a file that only its owner can read,
and gloo listens on the loopback interface. The group is independent of the model.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tessera.errors import UsageError

# Between two collectives of a step the ranks do equal work; one this late is considered lost.
TIMEOUT = timedelta(minutes=10)
MEETING = timedelta(minutes=1)  # time for all ranks to connect, after loading


class Group:
    """One of `size` ranks; all of them must call the same methods in the same order."""

    def __init__(self, size: int, backend: Any) -> None:
        self.size = size
        self._backend = backend  # torch.distributed's ProcessGroupGloo or ProcessGroupNCCL

    def all_reduce(self, partial: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors, the same on each; overwrites `partial`."""
        partial = partial.contiguous()
        self._backend.allreduce([partial]).wait()
        return partial

    def all_gather(self, part: Tensor) -> Tensor:
        """Concatenate all ranks' tensors, of one shape, along the last dimension."""
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self._backend.allgather([parts], [part.contiguous()]).wait()
        return torch.cat(parts, dim=-1)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor on every rank; the others pass one of its shape, which is overwritten."""
        tensor = tensor.contiguous()
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._backend.broadcast([tensor], options).wait()
        return tensor

    def abort(self) -> None:
        """Abort collectives that wait for lost ranks."""
        if hasattr(self._backend, "abort"):
            self._backend.abort()


def connect(folder: Path, rank: int, size: int, device: torch.device) -> Group:
    """Wait for all ranks to connect through this folder; raises UsageError if torch cannot connect such devices."""
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
        raise UsageError("this PyTorch has no NCCL, which connects GPUs; install one that has it, or use one device.")
    options._timeout = TIMEOUT
    group = Group(size, backend(store, rank, size, options))
    group.all_reduce(torch.zeros(1, device=device))  # connects all ranks; the file is not needed afterwards
    return group
