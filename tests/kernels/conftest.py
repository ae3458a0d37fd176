"""What the kernels' tests share: kernels emulated on lower processors, compiled once."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tessera.kernels.library import choice
from tests.kernels.emulation import build_emulated_amx, build_emulated_vnni


@pytest.fixture(scope="session")
def emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The AMX kernels on emulated tiles; what surrounds the tiles is AVX512-BF16."""
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("the AMX kernels' other instructions are AVX512-BF16, which this processor lacks")
    return build_emulated_amx(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def emulated_vnni(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Attention in 8 bits compiled for AVX2."""
    if choice().path in ("torch", "neon"):
        pytest.skip(f"no AVX2 and compiler here: {choice().reason}")
    return build_emulated_vnni(tmp_path_factory.mktemp("emulated"))
