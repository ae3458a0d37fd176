"""Sources of a model's tensors: plain ones in a file, and linears with a quantized weight.

A layout's reader returns them, for code that fills, converts or quantizes a model. Nothing is read until needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.machine import prefer_huge_pages
from tessera.weights.safetensors import StoredTensor

EMBEDDINGS, HEAD = "tok_embeddings.weight", "output.weight"  # official names, of one matrix in tied models
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """The source of one of the model's tensors; `transform` turns the file's row order into the model's."""

    stored: StoredTensor
    transform: Transform | None = None

    def read(self) -> Tensor:
        """Read the tensor in the model's row order and the file's dtype; raises CheckpointError."""
        tensor = self.stored.read()
        return tensor if self.transform is None else self.transform(tensor)

    def panels(self, num_rows: int) -> Iterator[Tensor]:
        """Yield `num_rows` rows at a time, in the model's order and the file's dtype; raises CheckpointError."""
        if self.transform is not None:  # queries and keys, as in `load`
            yield from self.read().split(num_rows)
            return
        for start in range(0, self.stored.shape[0], num_rows):
            yield self.stored.rows(start, min(start + num_rows, self.stored.shape[0]))

    def load(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Read the tensor in the model's row order, converted while reading; raises CheckpointError."""
        if self.transform is not None:  # queries and keys: small, and must be whole to be reordered
            whole = self.read()
            return prefer_huge_pages(torch.empty(whole.shape, dtype=dtype, device=device)).copy_(whole)
        tensor = prefer_huge_pages(torch.empty(self.stored.shape, dtype=dtype, device=device))
        self.stored.read_into(tensor)
        return tensor


def has_tied_head(sources: Mapping[str, Source]) -> bool:
    """Return True if the head is the embeddings' own matrix; both by official name."""
    return HEAD in sources and sources[HEAD] == sources.get(EMBEDDINGS)


@dataclass(frozen=True)
class StoredLinear:
    """A quantized linear in a checkpoint: facts from its headers, and its weight, made on demand."""

    scheme: str  # the weight's form once loaded; for a GGUF file its bits alone
    shape: tuple[int, int]
    stored_bytes: int
    nbytes: int  # once loaded
    load: Callable[[], QuantizedWeight]
    plain: Source | None = None  # 8-bit floats as bfloat16, for what starts from 16 bits; None for integer codes


def check_scales(weight: QuantizedWeight, file: Path, name: str) -> None:
    """Raise CheckpointError for a non-finite scale or minimum; codes and multipliers are single bytes."""
    numbers = (tensor for tensor in weight.tensors.values() if tensor.dtype.itemsize > 1)
    if not all(tensor.isfinite().all() for tensor in numbers):
        raise not_finite(file, name)


def not_finite(file: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {name!r} has a scale that is not a finite number or too large for float16, so the file is damaged; "
        "download it again."
    )
