"""NEON's products with packed weights, compiled for Arm and run by qemu's emulation: the bits of the AVX2 path."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tessera.kernels.build import FLAGS, MACHINES, SOURCES
from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.packed_linear import KERNEL_DTYPES, linear_int8_twin, packed_linear
from tessera.kernels.packed_weight import PackedWeight
from tests.kernels.test_packed_linear import DTYPES, ODD_KINDS, random_inputs, summation_bound
from tests.kernels.test_packed_weight import random_weight

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CHECKED = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"{COMPILER} or {EMULATOR} is not installed"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("neon") / "driver"
    names = ("packed_linear_neon.cpp", "team.cpp", "cpu.cpp")
    sources = [*(SOURCES / name for name in names), Path(__file__).with_name("neon_driver.cpp")]
    defines = ('-DTESSERA_SOURCES_DIGEST="none"', "-DTESSERA_COMPILED_LEVEL=1")
    flags = (*FLAGS, *MACHINES["aarch64"]["neon"], *CHECKED, *defines, "-static", f"-I{SOURCES}")
    subprocess.run([COMPILER, *flags, *map(str, sources), "-o", str(out)], check=True)
    return out


def by_neon(program: Path, weight: PackedWeight, inputs: list[Tensor]) -> list[Tensor]:
    """Return the products of each of the inputs, in their dtype."""
    sent = b""
    for inputs_TK in inputs:
        numbers = struct.pack("5q", weight.bits, *weight.shape, len(inputs_TK), KERNEL_DTYPES[inputs_TK.dtype])
        parts = (weight.codes, weight.scales, weight.minimums, weight.super_scales, weight.super_minimums, inputs_TK)
        for piece in (numbers, *(b"" if part is None else _bytes(part) for part in parts)):
            sent += struct.pack("q", len(piece)) + piece
    received = subprocess.run([EMULATOR, str(program)], input=sent, stdout=subprocess.PIPE, check=True).stdout
    out, at = [], 0
    for inputs_TK in inputs:
        count = len(inputs_TK) * weight.shape[0]
        piece = bytearray(received[at : at + count * inputs_TK.itemsize])
        out.append(torch.frombuffer(piece, dtype=inputs_TK.dtype).view(len(inputs_TK), -1))
        at += len(piece)
    assert at == len(received)
    return out


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(("bits", "kind"), ODD_KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (37, 544), (170, 1280)])
def test_products_agree_with_the_twin_and_with_avx2(
    program: Path, bits: int, kind: str, rows: int, columns: int
) -> None:
    if kind == "super" and columns % 256:
        pytest.skip("super-scales stand for 256 columns")
    weight = random_weight(bits, rows, columns, kind)
    everything = random_inputs(64, columns)
    inputs = [everything[:tokens] for tokens in (*range(1, 18), 33, 64)]
    inputs += [everything[:5].to(dtype) for dtype in DTYPES]
    found = by_neon(program, weight, inputs)
    for given, out in zip(inputs, found, strict=True):
        if given.dtype == torch.float32:
            exact, bound = linear_int8_twin(given, weight), summation_bound(given, weight)
            assert ((out - exact).abs() <= bound).all()
    if "avx2" in PATHS[: PATHS.index(choice().path) + 1]:
        with forced("avx2"):
            for given, out in zip(inputs, found, strict=True):
                assert torch.equal(packed_linear(given, weight), out)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_has_no_finite_outputs_and_disturbs_none(program: Path, bad: float) -> None:
    weight = random_weight(4, 37, 544, "centred")
    inputs = random_inputs(3, 544)
    (expected,) = by_neon(program, weight, [inputs])
    inputs[1, 300] = bad
    tiny = torch.full((1, 544), 1e-44)
    found, zeros = by_neon(program, weight, [inputs, tiny])
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert zeros.isfinite().all()
