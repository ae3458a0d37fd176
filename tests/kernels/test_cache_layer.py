"""What a cache gives back of what was written: all of it, or within half a step of 8 bits."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from tessera.kernels.cache_layer import CacheLayer, bytes_per_token

CPU = torch.device("cpu")
STATUS = Path("/proc/self/statm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("width", [32, 64, 88, 128])
def test_what_is_read_is_what_was_written(dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    # Magnitudes from 1e-9 to 1e9: each token's head has a scale of its own.
    magnitudes = 10.0 ** torch.randint(-9, 10, (2, 40, 3, 1), generator=generator)
    keys, values = torch.randn(2, 40, 3, width, generator=generator) * magnitudes
    values[5, 1] = 0
    if dtype == torch.bfloat16:
        keys, values = keys.bfloat16(), values.bfloat16()
    cache = CacheLayer.zeros(6, 16, 3, width, dtype, CPU)
    blocks = torch.tensor([4, 0, 2], dtype=torch.int32)
    slots = cache.slots(blocks, 40)
    assert slots[[0, 15, 16, 39]].tolist() == [64, 79, 0, 39]
    cache.write(slots, keys, values)
    for written, read in zip((keys, values), cache.read(slots, keys.dtype), strict=True):
        # Half a step of the 127 between 0 and the largest, and the rounding of the product in float32.
        half_step = written.abs().amax(-1, keepdim=True) / 127 / 2 if dtype == torch.int8 else torch.zeros(())
        assert ((read - written).abs() <= half_step * (1 + 1e-4)).all()
    assert cache.is_exact == (dtype != torch.int8)
    held = sum(tensor.nbytes for tensor in vars(cache).values() if tensor is not None)
    assert held == 6 * 16 * bytes_per_token(3, width, dtype)


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_a_cache_takes_memory_only_for_what_is_written(dtype: torch.dtype) -> None:
    before = resident_mb()
    cache = CacheLayer.zeros(16_384, 16, 8, 64, dtype, CPU)  # 256 MB of keys, as many of values; half of it in 8 bits
    assert resident_mb() - before < 16
    slots = torch.tensor([5, 200_000])
    cache.write(slots, torch.ones(2, 8, 64, dtype=torch.bfloat16), torch.ones(2, 8, 64, dtype=torch.bfloat16))
    assert cache.read(torch.tensor([4, 5, 200_000]), torch.float32)[1][:, 0, 0].tolist() == [0, 1, 1]
    assert resident_mb() - before < 32
    assert all(tensor.data_ptr() % 64 == 0 for tensor in vars(cache).values() if tensor is not None)


def resident_mb() -> float:
    return int(STATUS.read_text().split()[1]) * mmap.PAGESIZE / 1e6


def test_a_number_gone_wrong_stays_wrong_and_stays_alone() -> None:
    cache = CacheLayer.zeros(1, 16, 2, 32, torch.int8, CPU)
    rows = torch.ones(3, 2, 32)
    rows[0, 1, 5], rows[2, 0, 0] = torch.nan, torch.inf
    cache.write(torch.arange(3), rows, rows)
    wrong = cache.read(torch.arange(3), torch.float32)[0].isnan().any(-1)
    assert wrong.tolist() == [[False, True], [False, False], [True, False]]
