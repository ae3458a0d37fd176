"""The packed values of every block format are those of the gguf package, on blocks of random bits."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tessera.kernels.packed_weight import dequantize
from tessera.weights.gguf.blocks import IQ4_NL_VALUES, REPACKED, REQUANTIZED, pack_rows, packed_bytes

SCALE_OFFSETS = {Kind.Q6_K: (208,), Kind.Q3_K: (108,), Kind.Q2_K: (80, 82)}  # of float16 numbers in a block
TWO_SCALES = (Kind.Q4_1, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K)


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Blocks of random bits, whose float16 scales are made finite numbers of either sign."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (rows, columns // block, block_bytes), dtype=np.uint8)
    offsets = SCALE_OFFSETS.get(kind, (0, 2) if kind in TWO_SCALES else (0,))
    for offset in offsets:
        scales = (generator.standard_normal((rows, columns // block)) * 0.01).astype(np.float16)
        blocks[..., offset : offset + 2] = scales[..., None].view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


@pytest.mark.parametrize("kind", REPACKED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("rows", "columns"), [(16, 256), (1, 512), (37, 1024)])
def test_a_repacked_format_keeps_every_value(kind: Kind, rows: int, columns: int) -> None:
    blocks = random_blocks(kind, rows, columns)
    expected = gguf.quants.dequantize(blocks.numpy(), kind)
    weight = pack_rows(kind, blocks)
    assert torch.equal(dequantize(weight), torch.from_numpy(expected))
    assert weight.nbytes == packed_bytes(kind, rows, columns)
    assert weight.bits == (4 if kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q4_K) else 8)


@pytest.mark.parametrize("kind", REQUANTIZED[:3], ids=lambda kind: kind.name)
def test_a_finer_format_is_rounded_by_less_than_half_a_step(kind: Kind) -> None:
    blocks = random_blocks(kind, 20, 512)
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), kind)).unflatten(1, (-1, 32))
    rounded = dequantize(pack_rows(kind, blocks)).unflatten(1, (-1, 32))
    largest = expected.abs().amax(-1, keepdim=True)
    # Half of one of 127 steps, and float16's rounding of the step times at most 127.
    assert ((rounded - expected).abs() <= largest * (0.5 / 127 + 2**-11) + 1e-6).all()


def test_the_table_of_iq4_nl_is_the_packages() -> None:
    assert tuple(gguf.quants.IQ4_NL.kvalues) == IQ4_NL_VALUES
