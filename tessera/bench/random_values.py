"""The numbers of random models: drawn a band of rows at a time, so that any size is made in little memory.

They are scaled by the widths, so that hidden states keep their size through any number of layers. The row
of the head for one id is the embedding of the id before it. So greedy decoding counts up, in every program
that reads the file, and comes round after CYCLE ids: a text known beforehand, which a prompt may hold
already (look-up then finds it) or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

CYCLE = 1024  # ids; also the rows of one band
EMBEDDINGS, HEAD = "tok_embeddings.weight", "output.weight"
# What a layer adds to the hidden state, beside the embedding's 1: small enough that 40 layers leave it readable.
RESIDUAL_GAIN = 0.25
RESIDUAL_OUTPUTS = ("attention.wo.weight", "feed_forward.w2.weight")


def next_ids(last: int, count: int, vocab_size: int) -> list[int]:
    """What greedy decoding says after the id `last`; the vocabulary's last cycle may be shorter."""
    first = last - last % CYCLE
    span = min(CYCLE, vocab_size - first)
    return [first + (last - first + step) % span for step in range(1, count + 1)]


def bands(name: str, shape: tuple[int, ...]) -> Iterator[tuple[np.random.Generator, int]]:
    """For each band of rows its source of random numbers, and how many rows it has.

    The head's bands draw what the embeddings' draw; whoever fills them turns them by a row.
    """
    seed = zlib.crc32((EMBEDDINGS if name == HEAD else name).encode())
    for first in range(0, shape[0], CYCLE):
        yield np.random.default_rng([seed, first]), min(CYCLE, shape[0] - first)


def turned(name: str, rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """A band as it is stored: in the head, row i + 1 holds what the embeddings hold in row i."""
    return np.roll(rows, 1, axis=0) if name == HEAD else rows


def spread(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of a matrix's values."""
    if name == EMBEDDINGS:
        return 1.0
    gain = RESIDUAL_GAIN if name.endswith(RESIDUAL_OUTPUTS) else 1.0
    return gain / float(np.sqrt(np.prod(shape[1:])))


def vector(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Norms are ones, biases zeros."""
    return np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)


def bfloat16_bytes(values: NDArray[np.generic]) -> bytes:
    """Values as bfloat16, which numpy does not have."""
    return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.uint8).numpy().tobytes()
