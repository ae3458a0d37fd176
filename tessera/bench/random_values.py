"""The numbers of random models: whole numbers times a power of two, drawn a band of rows at a time.

So every format holds them exactly, and a model of any size is written in little memory. They are as large
as the widths require: hidden states keep their size through any number of layers. The row of the head
for one id is the embedding of the id before it. So greedy decoding counts up, in every program that
reads the model, and wraps around after CYCLE ids: a text known in advance, which a prompt may hold
already (look-up then finds it) or not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CYCLE = 1024  # ids; also rows in a band
EMBEDDINGS, HEAD = "tok_embeddings.weight", "output.weight"
# The largest code for each number of bits; the lowest is its negative, so that no mean builds up over a row.
LARGEST = {4: 7, 8: 127}
# What codes of 3 bits are drawn from: six of the eight levels, whose mean is zero.
BALANCED = np.array([-10, -6, -2, 1, 4, 13], np.int8)
# A layer's addition to the hidden state, relative to the embedding's 1: readable even after 40 layers.
RESIDUAL_GAIN = 0.25
RESIDUAL_OUTPUTS = ("attention.wo.weight", "feed_forward.w2.weight")


def next_ids(last: int, count: int, vocab_size: int) -> list[int]:
    """Return the ids that greedy decoding generates after `last`; the vocabulary's last cycle may be shorter."""
    first = last - last % CYCLE
    span = min(CYCLE, vocab_size - first)
    return [first + (last - first + step) % span for step in range(1, count + 1)]


def codes(name: str, shape: tuple[int, ...], bits: int) -> Iterator[NDArray[np.int8]]:
    """Yield a matrix's uniform codes band by band, with 3 bits their levels; the head's are rotated by a row."""
    seed = zlib.crc32((EMBEDDINGS if name == HEAD else name).encode())
    for first in range(0, shape[0], CYCLE):
        numbers = np.random.default_rng([seed, first])
        band = (min(CYCLE, shape[0] - first), *shape[1:])
        if bits == 3:
            drawn = BALANCED[numbers.integers(0, len(BALANCED), band, np.int8)]
        else:
            drawn = numbers.integers(-LARGEST[bits], LARGEST[bits], band, np.int8, endpoint=True)
        yield np.roll(drawn, 1, axis=0) if name == HEAD else drawn


def scale(name: str, shape: tuple[int, ...], bits: int) -> float:
    """Return the factor of the codes: the power of two closest to the one for the desired size."""
    if name == EMBEDDINGS:
        size = 1.0
    else:
        size = (RESIDUAL_GAIN if name.endswith(RESIDUAL_OUTPUTS) else 1.0) / math.sqrt(math.prod(shape[1:]))
    if bits == 3:
        code_size = math.sqrt((BALANCED.astype(np.float64) ** 2).mean())
    else:
        code_size = math.sqrt(((2 * LARGEST[bits] + 1) ** 2 - 1) / 12)
    return float(2.0 ** round(math.log2(size / code_size)))


def vector(name: str) -> float:
    """Return the one value that fills a vector: norms are ones, biases zeros."""
    return 0.0 if name.endswith("bias") else 1.0
