"""The packed values of every block format are those of the gguf package, on blocks of random bits."""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera.kernels.packed_weight import dequantize
from tessera.weights.gguf.blocks import IQ4_NL_VALUES, REPACKED, REQUANTIZED, pack_rows, packed_bytes
from tests.weights.gguf.files import decode, random_blocks


@pytest.mark.parametrize("kind", REPACKED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("rows", "columns"), [(16, 256), (1, 512), (37, 1024)])
def test_a_repacked_format_keeps_every_value(kind: Kind, rows: int, columns: int) -> None:
    blocks = random_blocks(kind, rows, columns)
    weight = pack_rows(kind, torch.from_numpy(blocks))
    assert torch.equal(dequantize(weight), decode(blocks, kind))
    assert weight.nbytes == packed_bytes(kind, rows, columns)
    assert weight.bits == (4 if kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q4_K) else 8)


@pytest.mark.parametrize("kind", REQUANTIZED, ids=lambda kind: kind.name)
def test_a_finer_format_is_rounded_by_less_than_half_a_step(kind: Kind) -> None:
    blocks = random_blocks(kind, 20, 512)
    expected = decode(blocks, kind).unflatten(1, (-1, 32))
    rounded = dequantize(pack_rows(kind, torch.from_numpy(blocks))).unflatten(1, (-1, 32))
    largest = expected.abs().amax(-1, keepdim=True)
    # Half of one of 127 steps, and float16's rounding of the step (2^-25 at the least), times at most 127.
    assert ((rounded - expected).abs() <= largest * (0.5 / 127 + 2**-11) + 127 * 2**-25).all()


def test_the_table_of_iq4_nl_is_the_packages() -> None:
    assert tuple(gguf.quants.IQ4_NL.kvalues) == IQ4_NL_VALUES
