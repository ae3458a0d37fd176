"""The AMX kernels with their tile operations in plain C++, for processors without AMX.

All else is what AMX machines run: packing, indexing, edges, threads. Undefined behaviour traps.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tessera.kernels.build import FLAGS, PROCESSORS, SOURCES, find_compiler

EMULATION = ("-DTESSERA_EMULATE_AMX", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def build_emulated(folder: Path) -> ctypes.CDLL:
    """The library of the AMX files, and of the threads they run on, compiled for this test."""
    library = folder / "emulated_amx.so"
    sources = [str(path) for path in (*sorted(SOURCES.glob("*_amx.cpp")), SOURCES / "team.cpp")]
    command = [find_compiler(), *FLAGS, *PROCESSORS["amx"], *EMULATION, "-shared", *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def emulated_kernel(library: ctypes.CDLL) -> Callable[..., Any]:
    """What stands for `tessera.kernels.library.kernel`: each kernel's AMX path."""

    def kernel(name: str, *arguments: Any) -> Any:
        function = getattr(library, f"{name}_amx", None)
        if function is not None:
            function.argtypes, function.restype = arguments, ctypes.c_int
        return function

    return kernel
