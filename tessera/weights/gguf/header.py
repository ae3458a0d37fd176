"""Reads a GGUF file's header: metadata and tensor positions, with every number checked before use.

The gguf package's own reader trusts counts and offsets, recurses into arrays, and takes 8 seconds and
700 MB for the lists of a vocabulary of 131,072 tokens (measured, one core); so the header is walked
here, within the available bytes, and the package provides the tables of types. It refuses what has
broken other readers: counts, lengths and products of dimensions that exceed the file, nested arrays,
duplicate names, overlapping tensors (GHSA-96jg-mvhq-q7q7 and similar).
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Independent of the model.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from tessera.errors import CheckpointError
from tessera.weights.safetensors import LFS_POINTER, opened

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had other widths and was in use for a few weeks of 2023
MAX_HEADER_BYTES = 32 * 2**20  # a vocabulary of 131,072 tokens with its merges takes 10 MB
MAX_ARRAY_LENGTH = 2**20  # that vocabulary has 269,443 merges
MAX_KEY_BYTES = 2**16 - 1  # the specification's
MAX_NAME_BYTES = 64  # the specification's, for tensors
MAX_DIMENSIONS = 4  # ggml's
MAX_ALIGNMENT = 2**16  # usual is 32
DEFAULT_ALIGNMENT = 32
# Least bytes of an entry: key length, type, value; and name length, count, one dimension, type, offset.
LEAST_PAIR_BYTES, LEAST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8
NUMBERS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

Scalar = int | float | bool | str
# Arrays of numbers are not decoded and strings in arrays stay bytes: most are never used.
Value = Scalar | NDArray[Any] | list[bytes]


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: its shape in torch's order (ggml's reversed), and its position in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """A file's metadata by key, and its tensors by name."""

    file: Path
    values: Mapping[str, Value]
    tensors: Mapping[str, Entry]

    def text(self, key: str) -> str | None:
        """Return a key's text; None if it is missing or not text."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None


def read_header(file: Path) -> Header:
    """Read and check a file's header; raises CheckpointError that names the fault."""
    with opened(file) as source:
        size = file.stat().st_size
        data = source.read(min(size, MAX_HEADER_BYTES))
    if data.startswith(LFS_POINTER):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the model; run `git lfs pull` in its folder.")
    if data[:4] != MAGIC:
        raise CheckpointError(f"{file} is not a GGUF file: it begins with {data[:4]!r}; use the file of a GGUF model.")
    cursor = _Cursor(file, data, size)
    _check_version(cursor)
    num_tensors, num_pairs = cursor.number("Q"), cursor.number("Q")
    values = _read_pairs(cursor, cursor.count(num_pairs, LEAST_PAIR_BYTES, "metadata entries"))
    parts = values.get("split.count", 1)
    if type(parts) is not int or parts != 1:
        raise CheckpointError(
            f"{file} is one of {reprlib.repr(parts)} parts of a model; join them with llama.cpp's "
            "`llama-gguf-split --merge` and use the whole."
        )
    cursor.count(num_tensors, LEAST_TENSOR_BYTES, "tensors")
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    return Header(file, values, _place(cursor, entries, _alignment(file, values)))


class _Cursor:
    """A position in the header's bytes that never leaves them."""

    def __init__(self, file: Path, data: bytes, size: int) -> None:
        self.file, self.size = file, size
        self._data = data
        self.position = len(MAGIC)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start, end = self.position, self.position + length
        if end > len(self._data):
            if end > self.size:
                damaged(self.file, f"{length:,} bytes are announced at byte {start:,} and it has {self.size:,}")
            raise CheckpointError(
                f"{self.file} has more than {MAX_HEADER_BYTES:,} bytes of header, which no known model has; "
                "download it again."
            )
        self.position = end
        return self._data[start:end]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def numbers(self, code: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self.take(count * struct.calcsize("<" + code)), "<" + code)

    def text(self, limit: int, what: str) -> str:
        length = self.number("Q")
        if length > limit:
            damaged(self.file, f"{what} at byte {self.position:,} has {length:,} bytes and may have {limit:,}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            damaged(self.file, f"{what} before byte {self.position:,} is not UTF-8")

    def texts(self, count: int) -> list[bytes]:
        found = []
        for _ in range(count):  # hundreds of thousands: written for speed, `take` reports faults
            start = self.position + 8
            end = start + int.from_bytes(self._data[self.position : start], "little")
            if end > len(self._data):
                self.take(end - self.position)
            found.append(self._data[start:end])
            self.position = end
        return found

    def count(self, count: int, least_bytes: int, what: str) -> int:
        """Return the count after checking that the file can hold that many, so no loop is longer than the file."""
        if count > (self.size - self.position) // least_bytes:
            damaged(self.file, f"{count:,} {what} are announced at byte {self.position:,} and it has {self.size:,}")
        return count


def _check_version(cursor: _Cursor) -> None:
    version = cursor.number("I")
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise CheckpointError(f"{cursor.file} is written for big-endian machines; use the little-endian file.")
    raise CheckpointError(
        f"{cursor.file} is of GGUF version {version}, and versions {' and '.join(map(str, VERSIONS))} are read; "
        "convert the model again with a current llama.cpp."
    )


def _read_pairs(cursor: _Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text(MAX_KEY_BYTES, "a key")
        if key in values:
            damaged(cursor.file, f"its metadata has {key!r} twice")
        values[key] = _read_value(cursor, key)
    return values


def _read_value(cursor: _Cursor, key: str) -> Value:
    kind = _value_kind(cursor, key)
    if kind == GGUFValueType.STRING:
        return cursor.text(MAX_HEADER_BYTES, f"the text of {key!r}")
    if kind != GGUFValueType.ARRAY:
        number: Scalar = cursor.number(NUMBERS[kind])
        return number
    kind, count = _value_kind(cursor, key), cursor.number("Q")
    if kind == GGUFValueType.ARRAY or count > MAX_ARRAY_LENGTH:
        what = "arrays" if kind == GGUFValueType.ARRAY else f"{count:,} elements"
        damaged(cursor.file, f"{key!r} is an array of {what}, which no known model has")
    return cursor.texts(count) if kind == GGUFValueType.STRING else cursor.numbers(NUMBERS[kind], count)


def _value_kind(cursor: _Cursor, key: str) -> GGUFValueType:
    number = cursor.number("I")
    try:
        return GGUFValueType(number)
    except ValueError:
        damaged(cursor.file, f"{key!r} has the unknown type {number}")


def _alignment(file: Path, values: Mapping[str, Value]) -> int:
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        found = reprlib.repr(alignment)
        damaged(file, f"general.alignment is {found} and must be a power of two from 8 to {MAX_ALIGNMENT:,}")
    return alignment


def _read_entry(cursor: _Cursor) -> Entry:
    """Read a tensor's entry, its start still relative to the first tensor."""
    name = cursor.text(MAX_NAME_BYTES, "a tensor's name")
    num_dimensions = cursor.number("I")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        damaged(cursor.file, f"{name!r} has {num_dimensions} dimensions and may have 1 to {MAX_DIMENSIONS}")
    dimensions = tuple(cursor.number("Q") for _ in range(num_dimensions))
    number, start = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise CheckpointError(
            f"{cursor.file}: {name!r} is of the unknown type {number}; use a file of another quantization."
        ) from None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in dimensions or dimensions[0] % block:
        damaged(cursor.file, f"{name!r} has the dimensions {dimensions}, and {kind.name} needs multiples of {block}")
    # Python's integers do not overflow: too large a product exceeds the file.
    return Entry(name, dimensions[::-1], kind, start, math.prod(dimensions) // block * block_bytes)


def _place(cursor: _Cursor, entries: list[Entry], alignment: int) -> dict[str, Entry]:
    """Return the entries by name, relative to the file's start, checked to be contiguous, aligned and inside it."""
    base = cursor.position + -cursor.position % alignment
    end, placed = base, {}
    for entry in sorted(entries, key=lambda entry: entry.start):
        start = base + entry.start
        if start != end + -end % alignment:
            damaged(
                cursor.file, f"{entry.name!r} starts at byte {start:,} where {end + -end % alignment:,} was expected"
            )
        if entry.name in placed:
            damaged(cursor.file, f"it has the tensor {entry.name!r} twice")
        end = start + entry.num_bytes
        if end > cursor.size:
            raise CheckpointError(
                f"{cursor.file} is cut short: {entry.name!r} ends at byte {end:,} and it has {cursor.size:,}; "
                "download it again."
            )
        placed[entry.name] = Entry(entry.name, entry.shape, entry.kind, start, entry.num_bytes)
    return placed


def damaged(file: Path, reason: str) -> NoReturn:
    raise CheckpointError(f"{file} is not a whole GGUF file: {reason}; download it again.")
