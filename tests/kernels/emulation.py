"""Kernels compiled for a lower processor: AMX's with their tile operations in plain C++, VNNI's for AVX2.

All else is what the machines run that they are for: packing, indexing, edges, threads. Undefined behaviour traps.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tessera.kernels.build import FLAGS, PROCESSORS, SOURCES, find_compiler
from tessera.kernels.library import PATHS, choice, forced

CHECKS = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
COMPILED_SOON = "-O1"  # instead of -O3, which takes longer to compile than all these tests take to run


def build_emulated_amx(folder: Path) -> ctypes.CDLL:
    """The library of the AMX files, and of the threads they run on, compiled for this test."""
    return _build(folder / "amx.so", ("-DTESSERA_EMULATE_AMX", *PROCESSORS["amx"]), sorted(SOURCES.glob("*_amx.cpp")))


def build_emulated_vnni(folder: Path) -> ctypes.CDLL:
    """The library of attention in 8 bits, compiled for AVX2."""
    return _build(folder / "vnni.so", PROCESSORS["avx2"], [SOURCES / "int8_attention_avx512.cpp"])


def _build(library: Path, flags: tuple[str, ...], sources: list[Path]) -> ctypes.CDLL:
    files = map(str, (*sources, SOURCES / "team.cpp", "-o", library))
    subprocess.run([find_compiler(), *FLAGS, *flags, COMPILED_SOON, *CHECKS, "-shared", *files], check=True)
    return ctypes.CDLL(str(library))


def emulated_kernel(library: ctypes.CDLL, path: str = "amx") -> Callable[..., Any]:
    """What stands for `tessera.kernels.library.kernel`: each kernel's path of that name."""

    def kernel(name: str, *arguments: Any) -> Any:
        function = getattr(library, f"{name}_{path}", None)
        if function is not None:
            function.argtypes, function.restype = arguments, ctypes.c_int
        return function

    return kernel


@contextmanager
def forced_here(path: str) -> Iterator[None]:
    """Take a path that this machine has, or skip the test."""
    if PATHS.index(path) > PATHS.index(choice().path):
        pytest.skip(f"no {path} here: {choice().reason}")
    with forced(path):
        yield
