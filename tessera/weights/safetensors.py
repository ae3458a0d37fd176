"""Reads safetensors files: checks their headers, and reads one tensor's bytes at a time.

The file is read with plain reads into the tensor's own memory: a memory map would count the
checkpoint a second time while it is copied. Every offset is checked against the file before the first
byte of weights is read. Independent of layouts and models.
Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from tessera.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
MAX_DIMENSIONS = 8  # twice the most in any model
MAX_NUMBER = 2**63 - 1  # torch's, for sizes and offsets
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # of tensors that are not quantized
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LFS_POINTER = b"version https://git-lfs"
READ_BYTES = 64 * 2**20  # at a time: enough for full speed, little compared with any model


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's position in a file; `start` counts from the beginning of the file."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_parameters * self.dtype.itemsize

    @property
    def is_coded(self) -> bool:
        """Return True if the file holds it in codes of few bits."""
        return False

    def read(self) -> Tensor:
        """Read the tensor into new memory, in the file's dtype; raises CheckpointError."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(tensor)
        return tensor

    def read_into(self, tensor: Tensor) -> None:
        """Fill a contiguous tensor of this shape, of any dtype and device; raises CheckpointError.

        If dtype and device are the file's own, the bytes are read directly into it; otherwise in pieces,
        so that the largest tensor is never in memory twice.
        """
        flat = tensor.view(-1)
        direct = flat.dtype == self.dtype and flat.device.type == "cpu"
        step = READ_BYTES // self.dtype.itemsize
        piece = flat if direct else torch.empty(min(step, self.num_parameters), dtype=self.dtype)
        with opened(self.file) as file:
            file.seek(self.start)
            for first in range(0, self.num_parameters, step):
                count = min(step, self.num_parameters - first)
                values = flat[first : first + count] if direct else piece[:count]
                self._read_exactly(file, values, first * self.dtype.itemsize)
                if not direct:
                    flat[first : first + count].copy_(values)

    def rows(self, start: int, stop: int) -> Tensor:
        """Read some of a matrix's rows, in the file's dtype; raises CheckpointError."""
        shape = (stop - start, *self.shape[1:])
        first = self.start + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        return StoredTensor(self.name, self.file, self.dtype, shape, first).read()

    def first_bytes(self, count: int) -> bytes:
        """Read the tensor's first `count` bytes, or all if it has fewer; raises CheckpointError."""
        with opened(self.file) as file:
            file.seek(self.start)
            return file.read(min(count, self.num_bytes))

    def within(self, pages: Tensor) -> Tensor:
        """Return the tensor as a view of its mapped file; raises CheckpointError."""
        if len(pages) < self.start + self.num_bytes:
            raise _truncated(self.file, self.start + self.num_bytes, len(pages))
        if self.start % self.dtype.itemsize:
            _damaged(self.file, f"{self.name!r} starts at byte {self.start:,}, in the midst of a number")
        return pages[self.start : self.start + self.num_bytes].view(self.dtype).view(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """Yield the tensor's bytes as stored in the file, in pieces; raises CheckpointError."""
        done = 0
        with opened(self.file) as file:
            file.seek(self.start)
            while done < self.num_bytes:
                chunk = file.read(min(self.num_bytes - done, READ_BYTES))
                if not chunk:
                    raise _truncated(self.file, self.start + self.num_bytes, self.start + done)
                done += len(chunk)
                yield chunk

    def _read_exactly(self, file: FileIO, values: Tensor, offset: int) -> None:
        buffer = values.view(torch.uint8).numpy().data
        while buffer:
            count = file.readinto(buffer)
            if not count:
                got = self.start + offset
                raise _truncated(self.file, self.start + self.num_bytes, got)
            buffer, offset = buffer[count:], offset + count


def map_file(file: Path) -> Tensor:
    """Map a file's bytes, shared with all who map it and read on first use.

    The map is private: writing to it does not change the file. Raises CheckpointError.
    """
    with opened(file) as source:
        size = os.fstat(source.fileno()).st_size
    return torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint's files, from their headers only; raises CheckpointError.

    Saved rotary frequencies are skipped, as in transformers and vLLM: they follow from the config.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _read_header(file):
            if tensor.name.endswith(".inv_freq"):
                continue
            if tensor.name in found:
                raise CheckpointError(
                    f"the tensor {tensor.name!r} is in both {found[tensor.name].file} and {file.name}; "
                    "remove the files of another download from the folder."
                )
            found[tensor.name] = tensor
    return found


def _read_header(file: Path) -> list[StoredTensor]:
    with opened(file) as source:
        size = file.stat().st_size
        start = source.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder.")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            _damaged(file, f"its {size:,} bytes cannot hold the {length:,} bytes of header that it announces")
        source.seek(8)
        header = _parse_header(file, source.read(length))
    header.pop("__metadata__", None)
    tensors = [_check_entry(file, name, entry, 8 + length) for name, entry in header.items()]
    end = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.num_bytes)):
        if tensor.start != end:
            _damaged(file, f"{tensor.name!r} starts at byte {tensor.start:,} where {end:,} was expected")
        end += tensor.num_bytes
    if size < end:
        raise _truncated(file, end, size)
    if size > end:
        _damaged(file, f"it has {size:,} bytes and its header accounts for {end:,}")
    return tensors


def _parse_header(file: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            _damaged(file, "its header has a name twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        _damaged(file, "its header is not a JSON object")
    return header


def _check_entry(file: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        code, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        _damaged(file, f"its header lacks dtype, shape or data_offsets of {name!r}")
    if not isinstance(code, str) or code not in DTYPES:
        raise CheckpointError(
            f"{file}: {name!r} is stored as {code}; this version reads {', '.join(DTYPES)}, so use an "
            "unquantized checkpoint."
        )
    if len(shape) > MAX_DIMENSIONS:
        _damaged(file, f"{name!r} has {len(shape):,} dimensions and may have {MAX_DIMENSIONS}")
    # A bool does not count as a number here.
    if not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in (*shape, first, last)):
        _damaged(file, f"its header gives {name!r} the shape {shape} and the bytes {first} to {last}")
    tensor = StoredTensor(name, file, DTYPES[code], shape, base + first)
    if last - first != tensor.num_bytes:
        _damaged(file, f"{name!r} has {last - first:,} bytes for the shape {shape} in {code}")
    return tensor


@contextmanager
def opened(file: Path) -> Iterator[FileIO]:
    """Open the file for plain reads; any OSError during its use becomes a CheckpointError."""
    try:
        with file.open("rb", buffering=0) as source:
            yield source
    except OSError as error:
        raise CheckpointError(
            f"{file} could not be read ({error.strerror}); check the file and its permissions."
        ) from error


def _damaged(file: Path, reason: str) -> NoReturn:
    raise CheckpointError(f"{file} is not a whole safetensors file: {reason}; download it again.")


def _truncated(file: Path, wanted: int, size: int) -> CheckpointError:
    return CheckpointError(f"{file} is cut short: it should have {wanted:,} bytes and has {size:,}; download it again.")
