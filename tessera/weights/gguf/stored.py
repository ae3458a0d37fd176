"""Tensors stored in a GGUF file, dequantized or packed a panel of rows at a time.

To the rest of the package they are stored tensors like any other; weights of linear layers are packed
instead, so they are never dequantized whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.kernels.packed_weight import TILE_ROWS, PackedWeight
from tessera.weights.gguf.blocks import (
    FOUR_BITS,
    PLAIN,
    REPACKED,
    REQUANTIZED,
    dequantize_rows,
    pack_rows,
    packed_bytes,
    round_rows,
)
from tessera.weights.gguf.header import Entry
from tessera.weights.safetensors import StoredTensor, opened
from tessera.weights.source import StoredLinear, check_scales, not_finite

PANEL_WEIGHTS = 2**20  # read and converted at a time: fits the caches, and bounds numpy's memory
SAMPLED_ROWS = 64  # of each tensor, for the error of a rounding: all rows would double the time to load


@dataclass(frozen=True)
class StoredBlocks(StoredTensor):
    """A quantized tensor in a GGUF file, whose values (products in float32) are read as `dtype`.

    `exact_row` is a row's number and the source of its unrounded values, for a dequantized table.
    """

    kind: GGMLQuantizationType
    exact_row: tuple[int, StoredTensor] | None = None

    @property
    def is_coded(self) -> bool:
        return True

    @property
    def num_rows(self) -> int:
        return self.num_parameters // self.shape[-1]

    @property
    def row_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // block * block_bytes

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.row_bytes

    def read_into(self, tensor: Tensor) -> None:
        """Fill a contiguous tensor of this shape, of any dtype and device, with the values; raises CheckpointError."""
        values_NK = tensor.view(self.num_rows, self.shape[-1])
        for first, blocks in self._panels():
            values = dequantize_rows(self.kind, blocks)
            if not values.isfinite().all():
                raise not_finite(self.file, self.name)
            values_NK[first : first + len(blocks)].copy_(values)
        if self.exact_row is not None:
            row, stored = self.exact_row
            values_NK[row].copy_(stored.read())

    def linear(self) -> StoredLinear:
        """Return the matrix as the weight of a linear layer, in the packed layout."""
        shape = self.num_rows, self.shape[-1]
        bits = 4 if self.kind in FOUR_BITS else 8
        return StoredLinear(f"int{bits}", shape, self.num_bytes, packed_bytes(self.kind, *shape), self.load_packed)

    def load_packed(self) -> PackedWeight:
        """Load the matrix in the packed layout; raises CheckpointError."""
        tiles = -(-self.num_rows // TILE_ROWS)
        whole: PackedWeight | None = None
        for first, blocks in self._panels():
            panel = pack_rows(self.kind, blocks)
            check_scales(panel, self.file, self.name)
            if whole is None:
                fields = {name: tensor.new_empty(tiles, *tensor.shape[1:]) for name, tensor in panel.tensors.items()}
                whole = PackedWeight(panel.bits, (self.num_rows, self.shape[-1]), **fields)
            place = whole.tiles(first // TILE_ROWS, first // TILE_ROWS + len(panel.codes))
            for name, tensor in panel.tensors.items():
                place.tensors[name].copy_(tensor)
        if whole is None:
            raise ValueError(f"{self.name!r} has no rows")
        return whole

    def sample_rounding(self) -> tuple[float, float]:
        """Return the squared error of rounding to 8 bits and the squared weights, summed over the first rows."""
        _, blocks = next(self._panels(SAMPLED_ROWS))
        exact = dequantize_rows(self.kind, blocks).double()
        error = dequantize_rows(*round_rows(self.kind, blocks)).double() - exact
        return float(error.square().sum()), float(exact.square().sum())

    def _panels(self, max_rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield first row and blocks, uint8 (rows, bytes of a row), of panels of whole tiles."""
        step = max(PANEL_WEIGHTS // self.shape[-1] // TILE_ROWS, 1) * TILE_ROWS
        step = min(step, max_rows or step)
        with opened(self.file) as file:
            file.seek(self.start)
            for first in range(0, self.num_rows, step):
                blocks = torch.empty(min(step, self.num_rows - first), self.row_bytes, dtype=torch.uint8)
                self._read_exactly(file, blocks.view(-1), first * self.row_bytes)
                yield first, blocks


def stored_tensor(file: Path, entry: Entry) -> StoredTensor:
    """Return a file's tensor by its header entry; raises CheckpointError for an unsupported type."""
    if entry.kind in PLAIN:
        return StoredTensor(entry.name, file, PLAIN[entry.kind], entry.shape, entry.start)
    if entry.kind in REPACKED or entry.kind in REQUANTIZED:
        return StoredBlocks(entry.name, file, torch.bfloat16, entry.shape, entry.start, entry.kind)
    readable = ", ".join(kind.name for kind in (*PLAIN, *REPACKED, *REQUANTIZED))
    raise CheckpointError(
        f"{file}: {entry.name!r} is stored as {entry.kind.name}, and the types that are read are {readable}; "
        "use a file of one of these."
    )


def rounding_error(tensors: Iterable[StoredBlocks]) -> float:
    """Return the RMS error of rounding the first rows to 8 bits, relative to their weights' RMS."""
    errors, weights = (sum(column) for column in zip(*(each.sample_rounding() for each in tensors), strict=True))
    return float((errors / weights) ** 0.5) if weights else 0.0
