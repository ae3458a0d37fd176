"""Unpacked columns are the bits of the dequantized matrix, by every path of the library."""

from __future__ import annotations

import pytest
import torch

from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.packed_weight import dequantize
from tessera.kernels.unpack_weight import unpack_columns
from tests.kernels.test_packed_weight import KINDS, random_weight

AVAILABLE = [path for path in PATHS[1 : PATHS.index(choice().path) + 1] if path in ("avx2", "avx512")]


@pytest.mark.skipif(not AVAILABLE, reason=f"no kernel library: {choice().reason}")
@pytest.mark.parametrize("path", AVAILABLE)
@pytest.mark.parametrize(("bits", "kind"), [(bits, kind) for bits, kind in KINDS if bits > 3])
def test_unpacked_columns_are_the_dequantized_ones(path: str, bits: int, kind: str) -> None:
    weight = random_weight(bits, 37, 1024, kind)
    wanted = dequantize(weight, torch.bfloat16).T
    before = torch.get_num_threads()
    with forced(path):
        for start, stop, threads in ((0, 1024, 1), (256, 512, 3), (992, 1024, 1)):
            torch.set_num_threads(threads)
            found = unpack_columns(weight, start, stop)
            assert found is not None
            assert torch.equal(found, wanted[start:stop])
    torch.set_num_threads(before)


def test_what_the_kernel_cannot_read_is_left_to_torch() -> None:
    weight = random_weight(4, 37, 1024, "centred")
    with forced("torch"):
        assert unpack_columns(weight, 0, 32) is None
    assert unpack_columns(weight.columns(256, 512), 0, 32) is None, "a view that skips groups"
    assert unpack_columns(random_weight(3, 37, 1024, "centred"), 0, 32) is None, "levels instead of codes"
    if AVAILABLE:
        with pytest.raises(ValueError, match="columns 1024 to 1056 are not in a weight of 1024 columns"):
            unpack_columns(weight, 1024, 1056)
