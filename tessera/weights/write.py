"""Writes checkpoints in either layout, tensor by tensor, so that memory holds about one of them.

A file's header precedes its first tensor, so names, dtypes and shapes come first and the bytes are
made on demand. Files have the safetensors library's own layout. They are written under temporary names
and renamed at the end, the config last, so the folder holds a whole model or none.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.errors import UsageError
from tessera.machine import PARTIAL, disk_room, free_disk_bytes, written_whole
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.weights import hf, hf_names
from tessera.weights.detect import INDEX, Layout
from tessera.weights.fill import Progress
from tessera.weights.safetensors import DTYPE_NAMES
from tessera.weights.source import HEAD, Source, has_tied_head

MAX_SHARD_BYTES = 5_000_000_000  # a common size of Hugging Face shards
HEADER_ALIGNMENT = 8
Writer = Callable[[Path], object]  # writes one file
END_IDS = {"bos_token_id": 1, "eos_token_id": 2}  # the same in every tokenizer of the family


@dataclass(frozen=True)
class Piece:
    """A tensor to be written: its header entry, and its bytes, made on demand."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Callable[[], Iterable[bytes | memoryview]]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save_model(
    model: Pixtral,
    folder: Path,
    to: Layout,
    tokenizer: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a model in memory, with its tokenizer's file, as a folder that loads in that layout."""
    pieces = [_piece_of_tensor(name, parameter, to, model.config) for name, parameter in model.named_parameters()]
    write_folder(folder, to, model.config, pieces, tokenizer, max_shard_bytes=max_shard_bytes, progress=progress)


def pieces_of(sources: Mapping[str, Source], to: Layout, config: ModelConfig) -> list[Piece]:
    """Return a checkpoint's tensors, to be renamed and permuted for the layout `to` as they are written.

    A head that is the embeddings' own matrix is written once, under their name.
    """
    head = {HEAD} if has_tied_head(sources) else set()
    return [_piece_of_source(name, source, to, config) for name, source in sources.items() if name not in head]


def write_folder(
    folder: Path,
    to: Layout,
    config: ModelConfig,
    pieces: Sequence[Piece],
    tokenizer: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a whole model folder or nothing; raises UsageError if the folder already holds files."""
    side_files = _side_files(to, config, pieces)
    shards = _shards(to, pieces, max_shard_bytes)
    if to == "hf" and len(shards) > 1:
        side_files = {INDEX: _index(shards), **side_files}
    total = sum(piece.num_bytes for piece in pieces)
    report = Report(total, progress)
    writers: dict[str, Writer] = {
        name: partial(write_tensors, pieces=shard, report=report) for name, shard in shards.items()
    }
    writers["tekken.json" if tokenizer.suffix == ".json" else tokenizer.name] = partial(shutil.copyfile, tokenizer)
    writers |= {name: partial(_write_json, content=content) for name, content in side_files.items()}
    write_files(folder, writers, total)


def write_files(folder: Path, writers: Mapping[str, Writer], num_bytes: int) -> None:
    """Write all files of a model in this order, or nothing; `num_bytes` is their total size.

    Raises UsageError if the folder already holds files or the disk lacks room, DiskFullError if it fills up.
    """
    _check_free(folder, num_bytes)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with disk_room(folder), ExitStack() as stack:
            # The stack closes them in reverse order: the first one is renamed first.
            partials = {name: stack.enter_context(written_whole(folder / name)) for name in reversed(list(writers))}
            for name, writer in writers.items():
                writer(partials[name])
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


class Report:
    """Counts the bytes written and reports progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, name: str, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress is not None:
            self._progress(name, self._done, self._total)


def _check_free(folder: Path, needed: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(not file.name.endswith(PARTIAL) for file in folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; nothing is overwritten, so name a new one.")
    if needed > (free := free_disk_bytes(folder)):
        raise UsageError(
            f"the files take {_size(needed)} and {_size(free)} is free at {folder}; free some, or name a folder on a "
            "larger disk."
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


def _piece_of_source(name: str, source: Source, to: Layout, config: ModelConfig) -> Piece:
    stored = source.stored
    if source.transform is None and (to == "mistral" or hf_names.permuted_heads(name, config) is None):
        data: Callable[[], Iterable[bytes | memoryview]] = stored.chunks
    else:

        def data() -> Iterator[memoryview]:
            yield _bytes_of(_permuted(name, source.read(), to, config))

    return Piece(_name_in(to, name), stored.dtype, stored.shape, data)


def _piece_of_tensor(name: str, tensor: Tensor, to: Layout, config: ModelConfig) -> Piece:
    def data() -> Iterator[memoryview]:
        yield _bytes_of(_permuted(name, tensor.detach().cpu(), to, config))

    return Piece(_name_in(to, name), tensor.dtype, tuple(tensor.shape), data)


def _name_in(to: Layout, name: str) -> str:
    return hf_names.to_hf_name(name) if to == "hf" else name


def _permuted(name: str, tensor: Tensor, to: Layout, config: ModelConfig) -> Tensor:
    heads = hf_names.permuted_heads(name, config) if to == "hf" else None
    return tensor if heads is None else hf_names.to_hf_rows(tensor, heads)


def piece_of_panels(name: str, panels: Sequence[Tensor]) -> Piece:
    """Make a piece of a tensor in memory, given as panels of rows in order, under this name."""
    shape = (sum(len(panel) for panel in panels), *panels[0].shape[1:])
    return Piece(name, panels[0].dtype, shape, lambda: map(_bytes_of, panels))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _shards(to: Layout, pieces: Sequence[Piece], max_shard_bytes: int) -> dict[str, list[Piece]]:
    """Assign tensors to file names: one file in the official layout, as many as the limit needs in the other."""
    if to == "mistral":
        return {"consolidated.safetensors": list(pieces)}
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if shards[-1] and size + piece.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.num_bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, 1)}


def _side_files(to: Layout, config: ModelConfig, pieces: Sequence[Piece]) -> dict[str, dict[str, Any]]:
    """Return JSON files by name, the config last, since it makes the folder a model."""
    if to == "mistral":
        return {"params.json": config.to_params()}
    largest = max(pieces, key=lambda piece: piece.num_bytes)
    return {"generation_config.json": END_IDS, "config.json": hf.write_config(config, largest.dtype)}


def _index(shards: Mapping[str, Sequence[Piece]]) -> dict[str, Any]:
    weight_map = {piece.name: name for name, shard in shards.items() for piece in shard}
    total = sum(piece.num_bytes for shard in shards.values() for piece in shard)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tensors(
    file: Path, pieces: Sequence[Piece], report: Report | None = None, *, alignment: int = HEADER_ALIGNMENT
) -> None:
    """Write one safetensors file; its first tensor starts at a multiple of `alignment` bytes."""
    ranks = list(DTYPE_NAMES)
    ordered = sorted(pieces, key=lambda piece: (ranks.index(piece.dtype), piece.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires the format
    end = 0
    for piece in ordered:
        start, end = end, end + piece.num_bytes
        header[piece.name] = {
            "dtype": DTYPE_NAMES[piece.dtype],
            "shape": list(piece.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for piece in ordered:
            for chunk in piece.data():
                out.write(chunk)
            if report is not None:
                report.add(piece.name, piece.num_bytes)
