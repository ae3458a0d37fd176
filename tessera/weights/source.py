"""Where the tensors of a model come from: plain ones out of a file, and linears whose weight is quantized.

What a layout's reader gives to whoever fills, converts or quantizes a model. Nothing is read until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.machine import prefer_huge_pages
from tessera.weights.safetensors import StoredTensor

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """Where one of the model's tensors comes from; `transform` turns the file's row order into the model's."""

    stored: StoredTensor
    transform: Transform | None = None

    def read(self) -> Tensor:
        """The tensor as the model wants it, in the file's dtype; raises CheckpointError."""
        tensor = self.stored.read()
        return tensor if self.transform is None else self.transform(tensor)

    def panels(self, num_rows: int) -> Iterator[Tensor]:
        """The tensor as the model wants it, some rows at a time, in the file's dtype; raises CheckpointError."""
        if self.transform is not None:  # queries and keys, as in `load`
            yield from self.read().split(num_rows)
            return
        for start in range(0, self.stored.shape[0], num_rows):
            yield self.stored.rows(start, min(start + num_rows, self.stored.shape[0]))

    def load(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The tensor as the model wants it, converted as it is read; raises CheckpointError."""
        if self.transform is not None:  # queries and keys: small, and must be whole to be reordered
            whole = self.read()
            return prefer_huge_pages(torch.empty(whole.shape, dtype=dtype, device=device)).copy_(whole)
        tensor = prefer_huge_pages(torch.empty(self.stored.shape, dtype=dtype, device=device))
        self.stored.read_into(tensor)
        return tensor


@dataclass(frozen=True)
class StoredLinear:
    """A quantized linear as a checkpoint holds it: what its headers say, and its weight, made when asked for."""

    scheme: str  # the form that the weight has once it is loaded; of a GGUF file its bits alone
    shape: tuple[int, int]
    stored_bytes: int
    nbytes: int  # once it is loaded
    load: Callable[[], QuantizedWeight]


def check_scales(weight: QuantizedWeight, file: Path, name: str) -> None:
    """Raise CheckpointError for a scale or minimum that is no finite number; codes and multipliers are single bytes."""
    numbers = (tensor for tensor in weight.tensors.values() if tensor.dtype.itemsize > 1)
    if not all(tensor.isfinite().all() for tensor in numbers):
        raise not_finite(file, name)


def not_finite(file: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {name!r} has a scale that is not a finite number or too large for float16, so the file is damaged; "
        "download it again."
    )
