"""Rows of a data set on this machine: Parquet, JSON lines or CSV files, each row read when it is asked for.

Files are chosen by split, as the hub names them: `validation-00000-of-00001.parquet`, in a folder of any depth.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from tessera.conversation import MAX_JSON_DEPTH, json_depth
from tessera.errors import ImageError, MissingExtraError, UsageError, shown
from tessera.messages import Image

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
SPLITS = ("train", "validation", "val", "valid", "dev", "test", "testmini", "testdev", "eval", "auxiliary_train")
MAX_LINE, MAX_UNPACKED = 64 << 20, 1 << 30  # bytes of a line, and of a compressed file
MAX_FILES = 10_000
BLOCK = 1 << 20
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Row:
    """One row: its values by column, and where it stands, which errors and relative paths need."""

    values: Mapping[str, Any]
    file: Path
    place: str  # the file and the line or row in it, from 1

    def __getitem__(self, column: str) -> Any:
        if column not in self.values:
            have = ", ".join(map(str, self.values)) or "none"
            raise UsageError(f"{self.place} has no column {column!r}; its columns are {have[:300]}.")
        return self.values[column]

    def get(self, column: str, default: Any = None) -> Any:
        value = self.values.get(column)
        return default if value is None else value

    def text(self, column: str) -> str:
        value = self[column]
        if not isinstance(value, str):
            raise UsageError(f"{self.place}: {column} must be a text, not {shown(value)}.")
        return value

    def texts(self, column: str) -> list[str]:
        """Return a list of texts, or one text as a list."""
        value = self[column]
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(each, str | int | float) for each in values):
            raise UsageError(f"{self.place}: {column} must be a text or a list of texts, not {shown(value)}.")
        return [str(each) for each in values]

    def image(self, column: str) -> Image:
        """Return an image: encoded bytes, a struct with them, a data URL, or a path beside the file."""
        return self.image_of(self[column], column)

    def image_of(self, value: Any, column: str) -> Image:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return Image(value)
        if isinstance(value, str) and value:
            is_url = value.startswith("data:") or "://" in value
            return Image(value if is_url else self.file.parent / value)
        raise ImageError(f"{self.place}: {column} holds no image; a path, bytes or a struct with them is wanted.")


class _File(Protocol):
    path: Path

    def __len__(self) -> int: ...

    def place(self, index: int) -> str: ...

    def values(self, index: int) -> Mapping[str, Any]: ...


class Rows:
    """All rows of some files in order, by index."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._files = [_open(path) for path in paths]
        self._ends = list(accumulate(len(file) for file in self._files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Row:
        file, inner = self._find(index)
        return Row(file.values(inner), file.path, file.place(inner))

    def place(self, index: int) -> str:
        """Return where a row stands, also of one that cannot be read."""
        file, inner = self._find(index)
        return file.place(inner)

    def _find(self, index: int) -> tuple[_File, int]:
        if not 0 <= index < len(self):
            raise UsageError(f"row {index} is beyond the {len(self):,} of {self.paths[0]}; has the file changed?")
        number = bisect_right(self._ends, index)
        return self._files[number], index - (self._ends[number - 1] if number else 0)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def digest(self) -> str:
        """Return the SHA-256 of all files' bytes."""
        found = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    found.update(block)
        return found.hexdigest()


def open_rows(path: Path, split: str, config: str = "") -> Rows:
    """Open a data set's split: one file, or those of a folder; raises UsageError that names what is there.

    A `config` is a folder that the data set's own repository has beside others: of those, only it is read.
    """
    if path.is_file():
        return Rows([path])
    if not path.is_dir():
        raise UsageError(f"{path} is neither a file nor a folder; name the data set's folder, or one of its files.")
    files = sorted(each for each in path.rglob("*") if each.name.endswith(SUFFIXES) and each.is_file())[:MAX_FILES]
    if not files:
        raise UsageError(f"{path} holds no {', '.join(SUFFIXES)} file; download the data set there first.")
    if named := [each for each in files if config and config in each.relative_to(path).parent.parts]:
        files = named
    chosen = [each for each in files if split_of(each, path) == split]
    if not chosen and all(split_of(each, path) is None for each in files):
        chosen = files
    if not chosen:
        have = ", ".join(sorted({split_of(each, path) or "?" for each in files}))
        raise UsageError(f"{path} has no file of the split {split!r}; it has {have}; choose with --split.")
    return Rows(chosen)


def split_of(file: Path, folder: Path) -> str | None:
    """Return the split that a file's name begins with, or that a folder above it has; None without one."""
    beginning = re.split(r"[-.]", file.name, maxsplit=1)[0]
    if beginning in SPLITS:
        return beginning
    return next((part for part in reversed(file.relative_to(folder).parent.parts) if part in SPLITS), None)


def _open(path: Path) -> _File:
    if path.name.endswith(".parquet"):
        return _Parquet(path)
    return _Table(path) if path.name.endswith((".csv", ".gz")) else _Lines(path)


class _Parquet:
    """A Parquet file, of which one group of rows is in memory."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise MissingExtraError(
                f"{path.name} needs pyarrow; install it with: pip install 'tessera[parquet]'"
            ) from error
        self.path = path
        try:
            self._file = ParquetFile(path)
        except (ArrowException, OSError) as error:
            way = "download it again"
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    way = "it only says where Git LFS has the file, so run `git lfs pull`"
            raise UsageError(f"{path} is no Parquet file, or a damaged one; {way}.") from error
        sizes = (self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups))
        self._ends = list(accumulate(sizes))
        self._group: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, index: int) -> str:
        return f"{self.path}, row {index + 1}"

    def values(self, index: int) -> Mapping[str, Any]:
        from pyarrow import ArrowException

        group = bisect_right(self._ends, index)
        if self._group[0] != group:
            self._group = (-1, None)  # free it before the next is read
            try:
                self._group = (group, self._file.read_row_group(group))
            except (ArrowException, OSError) as error:
                raise UsageError(f"{self.path} is damaged in its group {group}; download it again.") from error
        start = self._ends[group - 1] if group else 0
        found: Mapping[str, Any] = self._group[1].slice(index - start, 1).to_pylist()[0]
        return found


class _Lines:
    """A file of JSON lines, of which only the places of lines are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts, self._numbers = array("q"), array("q")
        place = number = 0
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    raise UsageError(f"{path} has a line of more than {MAX_LINE >> 20} MiB at byte {place}.")
                number += 1
                if line.strip():
                    self._starts.append(place)
                    self._numbers.append(number)
                place += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def place(self, index: int) -> str:
        return f"{self.path}, line {self._numbers[index]}"

    def values(self, index: int) -> Mapping[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return _object(file.readline(MAX_LINE), self.place(index))


class _Table:
    """A small file in memory: CSV, or compressed JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Mapping[str, Any] | bytes] = []  # lines of JSON are parsed when they are asked for
        try:
            with path.open("rb") if path.name.endswith(".csv") else gzip.open(path) as file:
                data = file.read(MAX_UNPACKED + 1)
            if len(data) > MAX_UNPACKED:
                raise UsageError(f"{path} holds more than {MAX_UNPACKED >> 20} MiB; give a plain .jsonl file.")
            if path.name.endswith(".csv"):
                self._rows += csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
            else:
                self._rows += [line for line in data.splitlines() if line.strip()]
        except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
            raise UsageError(f"{path} cannot be read ({type(error).__name__}); is it whole, and UTF-8?") from error

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> str:
        return f"{self.path}, row {index + 1}"

    def values(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        if isinstance(row, bytes):
            return _object(row, self.place(index))
        if None in row:
            raise UsageError(f"{self.place(index)} has more cells than the header; quote cells that hold commas.")
        return row


def _object(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is no JSON; correct the line.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place} must be a JSON object, not {shown(value)}.")
    if json_depth(value) > MAX_JSON_DEPTH:
        raise UsageError(f"{place} is nested more than {MAX_JSON_DEPTH} levels deep; flatten it.")
    if b"\\ud" in line.lower() and any("\ud800" <= sign <= "\udfff" for sign in json.dumps(value, ensure_ascii=False)):
        raise UsageError(f"{place} holds half of a surrogate pair, which is not a character; correct the line.")
    return value
