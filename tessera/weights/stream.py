"""Reading safetensors one tensor at a time, and filling a model that has no memory yet.

The file is read with plain reads into the tensor's own memory: a memory map would count the
checkpoint a second time while it is copied. Every offset is checked against the file before it is
used. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tessera.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the limit that the safetensors library itself has
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
READ_BYTES = 64 * 2**20  # at a time: enough for full speed, little beside any model

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies; `start` counts from the beginning of the file."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor in memory of its own, in the file's dtype; raises CheckpointError."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        buffer = memoryview(tensor.view(-1).view(torch.uint8).numpy()) if self.num_bytes else memoryview(bytearray())
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start)
                done = 0
                while done < self.num_bytes:
                    count = file.readinto(buffer[done : done + READ_BYTES])
                    if not count:
                        raise _truncated(self.file, self.start + self.num_bytes, self.start + done)
                    done += count
        except OSError as error:
            raise CheckpointError(f"{self.file} could not be read at byte {self.start}; check the disk.") from error
        return tensor


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint's files, from their headers only; raises CheckpointError."""
    found: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _read_header(file):
            if tensor.name in found:
                raise CheckpointError(
                    f"the tensor {tensor.name!r} is in both {found[tensor.name].file.name} and {file.name}; "
                    "remove the files of another download from the folder."
                )
            found[tensor.name] = tensor
    return found


def fill_model(
    model: nn.Module,
    tensors: Iterable[tuple[str, StoredTensor, Tensor]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
    total_bytes: int = 0,
) -> None:
    """Give a model made on the meta device its parameters, each as it is read.

    `tensors` yields official names with where they came from and their values. Raises
    CheckpointError for a tensor that is missing, unexpected or of another shape.
    """
    wanted = dict(model.named_parameters())
    done = 0
    for name, stored, tensor in tensors:
        if name not in wanted:
            raise CheckpointError(
                f"{stored.file.name} holds {stored.name!r}, which this architecture does not have; "
                "the side files and the weights belong to different models."
            )
        expected = wanted.pop(name)
        if tensor.shape != expected.shape:
            raise CheckpointError(
                f"{stored.file.name}: {stored.name!r} has the shape {tuple(tensor.shape)}, the config asks for "
                f"{tuple(expected.shape)}; the side files and the weights belong to different models."
            )
        owner_name, _, parameter_name = name.rpartition(".")
        parameter = nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
        setattr(model.get_submodule(owner_name), parameter_name, parameter)
        done += stored.num_bytes
        if progress is not None:
            progress(name, done, total_bytes)
    if wanted:
        names = sorted(wanted)
        raise CheckpointError(
            f"{len(names)} of the model's tensors are missing from the checkpoint, first {names[0]!r}; "
            "download the missing files again."
        )


def _read_header(file: Path) -> Iterator[StoredTensor]:
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _truncated(file, length + 8, size)
            header: Any = json.loads(opened.read(length))
    except OSError as error:
        raise CheckpointError(f"{file} could not be read; check that it exists and its permissions.") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not a safetensors file (its header is not JSON); download it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is not a safetensors file (its header is no object); download it again.")
    for name, entry in header.items():
        if name != "__metadata__":
            yield _check_entry(file, name, entry, 8 + length, size)


def _check_entry(file: Path, name: str, entry: Any, base: int, size: int) -> StoredTensor:
    try:
        dtype_name, shape = str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: the header's entry for {name!r} is damaged; download it again.") from error
    if dtype_name not in DTYPES:
        raise CheckpointError(
            f"{file}: {name!r} is stored as {dtype_name}; this version reads {', '.join(DTYPES)}, so use an "
            "unquantized checkpoint."
        )
    tensor = StoredTensor(name, file, DTYPES[dtype_name], shape, base + first)
    if first < 0 or min(shape, default=1) < 0 or last - first != tensor.num_bytes:
        raise CheckpointError(f"{file}: {name!r} has {last - first} bytes for the shape {shape}; download it again.")
    if base + last > size:
        raise _truncated(file, base + last, size)
    return tensor


def _truncated(file: Path, wanted: int, size: int) -> CheckpointError:
    return CheckpointError(f"{file} is cut short: it should have at least {wanted:,} bytes and has {size:,}; download it again.")
