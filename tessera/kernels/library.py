"""Loads the compiled kernels and offers each as a Python function, chosen for this processor.

A kernel is a C function `NAME_PATH` for one or more of the paths `avx2`, `avx512` (VNNI),
`avx512_bf16` and `amx`, each of which includes those before it, or on Arm `neon`; `kernel("NAME")` is the best one
that this machine runs, or None: the caller then computes with the kernel's twin in torch. The
environment variable TESSERA_KERNELS names the highest path to use; `torch` means none.
The functions take addresses: their callers check shapes, strides and dtypes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch  # loads the OpenMP runtime into the process

from tessera.errors import UsageError
from tessera.kernels.build import LIBRARY, PROCESSORS, BuildError, find_compiler, sources_digest

VARIABLE = "TESSERA_KERNELS"
PATHS = ("torch", *PROCESSORS)
OPENMP = ("libgomp", "libiomp5", "libomp")  # runtimes with the entry points that native/parallel.h calls
REBUILD = "run `python -m tessera.kernels.build`"

# The types of C arguments that kernels take.
ADDRESS, WHOLE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

_forced: str | None = None


@dataclass(frozen=True)
class Choice:
    """The path that kernels take here, and the reason that it is not a higher one."""

    path: str
    reason: str


@dataclass(frozen=True)
class _Library:
    """The loaded library, or None; the highest path it has that the machine runs; the reason for no higher one."""

    handle: ctypes.CDLL | None
    highest: str
    reason: str


def choice() -> Choice:
    """Return the path taken, with the reason; raises UsageError if TESSERA_KERNELS is unknown or unavailable."""
    library = _load()
    wanted = _forced or os.environ.get(VARIABLE)
    if not wanted:
        return Choice(library.highest, library.reason)
    origin = f"{VARIABLE}={wanted}"
    if wanted not in PATHS:
        raise UsageError(f"{origin} is not a kernel path; use one of {', '.join(PATHS)}")
    if PATHS.index(wanted) > PATHS.index(library.highest):
        raise UsageError(f"{origin} is not available: {library.reason}; unset it, or use {library.highest}")
    return Choice(wanted, f"{origin} asks for it")


@contextmanager
def forced(path: str) -> Iterator[None]:
    """Make kernels take this path for the duration, in all threads: for tests and measurements."""
    global _forced
    previous, _forced = _forced, path
    _kernel.cache_clear()
    try:
        choice()
        yield
    finally:
        _forced = previous
        _kernel.cache_clear()


def kernel(name: str, *arguments: Any) -> Callable[..., int] | None:
    """Return the C function `name` for the path taken, with C types `arguments`; None if there is none."""
    return _kernel(name, arguments)


@cache
def _kernel(name: str, arguments: tuple[Any, ...]) -> Callable[..., int] | None:
    handle = _load().handle
    for path in reversed(PATHS[1 : PATHS.index(choice().path) + 1]):
        function = getattr(handle, f"{name}_{path}", None)
        if function is not None:
            function.argtypes, function.restype = arguments, ctypes.c_int
            return function  # type: ignore[no-any-return]
    return None


@cache
def _load() -> _Library:
    if not LIBRARY.exists():
        return _Library(None, "torch", f"{LIBRARY.name} was not built: {_way_to_build()}")
    runtime = openmp_runtime()
    if runtime is None:
        return _Library(None, "torch", f"torch runs its threads by none of {', '.join(OPENMP)}")
    ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    try:
        handle = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return _Library(None, "torch", f"{LIBRARY.name} does not load ({error}); {_way_to_build()}")
    handle.tessera_sources_digest.restype = ctypes.c_char_p
    if handle.tessera_sources_digest().decode() != sources_digest():
        return _Library(None, "torch", f"{LIBRARY.name} was built from other sources; {_way_to_build()}")
    return _Library(handle, *_highest(handle))


def _highest(handle: ctypes.CDLL) -> tuple[str, str]:
    """Return the highest path for this processor and system, and what the next one lacks."""
    level, compiled = handle.tessera_cpu_level(), handle.tessera_compiled_level()
    if compiled < level:
        return PATHS[compiled], f"the compiler that built the library is too old for {PATHS[compiled + 1]}"
    if PATHS[level] == "neon":
        return "neon", "the processor has dot products"
    if PATHS[level] == "amx":
        # Linux lets a process use AMX's registers only after it asks (arch_prctl).
        permit = getattr(handle, "tessera_amx_permit", None)
        if permit is not None and permit():
            return "amx", "the processor has AMX"
        return "avx512_bf16", "the system does not let this process use AMX"
    return PATHS[level], f"the processor, or the system on it, has no {PATHS[level + 1]}"


def _way_to_build() -> str:
    try:
        find_compiler()
    except BuildError as error:
        return str(error)
    return REBUILD


def openmp_runtime() -> str | None:
    """Return the file of this process's OpenMP runtime, loaded by torch, if it is one of OPENMP."""
    maps = Path("/proc/self/maps")
    mapped = maps.read_text().splitlines() if maps.exists() else []
    files = {line[line.index("/") :] for line in mapped if "/" in line}
    # torch's own first: other packages may have loaded theirs as well.
    folder = str(Path(torch.__file__).parent)
    ordered = sorted(files, key=lambda file: (not file.startswith(folder), file))
    return next((file for name in OPENMP for file in ordered if Path(file).name.startswith(name)), None)
