"""What the kernels' tests share: the AMX kernels on emulated tiles, compiled once."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.kernels.emulation import build_emulated


@pytest.fixture(scope="session")
def emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The AMX kernels on emulated tiles; what surrounds the tiles is AVX512-BF16."""
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("the AMX kernels' other instructions are AVX512-BF16, which this processor lacks")
    return build_emulated(tmp_path_factory.mktemp("emulated"))
