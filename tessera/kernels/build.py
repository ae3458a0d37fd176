"""Compiles the C++ kernels into one shared library: `python -m tessera.kernels.build`.

The installer's hook (hatch_build.py), the Makefile and developers all use it. It needs only the
standard library and a C++ compiler; the library is not built against PyTorch. A file's name ends in
its processor (`_avx2`, `_avx512`, `_avx512_bf16`, `_amx`, `_neon`), which determines its flags; files
for another kind of machine, or for a processor that the compiler is too old for, are left out. The
library contains a digest of its sources, so that the loader recognizes a stale one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
LIBRARY = SOURCES / "tessera_kernels.so"

# Without contraction the sums are the same on every compiler: a product and a sum are rounded once only where
# the source says so.
CONTRACTION = "-ffp-contract=off"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-Wall", CONTRACTION)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
AVX512_BF16 = (*AVX512, "-mavx512bf16")
# By kind of machine, in the order of the levels of native/cpu.cpp.
MACHINES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": AVX2,
        "avx512": AVX512,
        "avx512_bf16": AVX512_BF16,
        "amx": (*AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    },
    "aarch64": {"neon": ("-march=armv8.2-a+dotprod",)},
}
PROCESSORS = MACHINES.get(platform.machine(), MACHINES["x86_64"])  # a machine of another kind compiles none


class BuildError(Exception):
    """The library could not be built; everything works without it, but slower."""


@dataclass(frozen=True)
class Build:
    """A finished library, and the processors left out because the compiler is too old."""

    library: Path
    left_out: tuple[str, ...]


def sources_digest() -> str:
    """Return a digest of everything that determines the library, except the compiler."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> str:
    """Return the C++ compiler: $CXX, or the first of c++, g++, clang++ on the path."""
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        raise BuildError(
            f"the kernels are written for Linux on {' and '.join(MACHINES)}, not {platform.system()} on "
            f"{platform.machine()}"
        )
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    raise BuildError(f"no C++ compiler: {wanted or 'c++, g++, clang++'} is not on the path")


def build(extra_flags: tuple[str, ...] = (), library: Path = LIBRARY) -> Build:
    """Compile and link; the new library atomically replaces the old one, for processes that start later."""
    compiler = find_compiler()
    supported = {name for name, flags in PROCESSORS.items() if _accepts(compiler, flags)}
    defines = [
        f'-DTESSERA_SOURCES_DIGEST="{sources_digest()}"',
        # Each processor includes the ones before it, so a number says which are present.
        f"-DTESSERA_COMPILED_LEVEL={len(supported)}",
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = []
        for source in sorted(SOURCES.glob("*.cpp")):
            processor = processor_of(source)
            if processor is None or processor in supported:
                object_file = Path(folder) / f"{source.stem}.o"
                flags = (*FLAGS, *PROCESSORS.get(processor or "", ()), *extra_flags)
                command = [compiler, *flags, *defines, "-c", str(source), "-o", str(object_file)]
                jobs.append((object_file, pool.submit(_run, command)))
        for _, job in jobs:
            job.result()
        linked = Path(folder) / library.name
        _run([compiler, "-shared", *extra_flags, *(str(path) for path, _ in jobs), "-o", str(linked)])
        # Written in the same folder first: a rename is atomic only within one file system.
        beside = library.with_name(f"{library.name}.{os.getpid()}")
        shutil.copy(linked, beside)
        beside.replace(library)
    return Build(library, tuple(name for name in PROCESSORS if name not in supported))


def processor_of(source: Path) -> str | None:
    """Return the processor that a file's name ends in: gemm_avx512_bf16.cpp -> avx512_bf16; None for any machine."""
    matches = [name for names in MACHINES.values() for name in names if source.stem.endswith(f"_{name}")]
    return max(matches, key=len, default=None)


def _accepts(compiler: str, flags: tuple[str, ...]) -> bool:
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", "-"]
    return subprocess.run(command, input=b"", capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def main() -> int:
    if LIBRARY.exists() and sources_digest().encode() in LIBRARY.read_bytes():
        print(f"{LIBRARY} is up to date")
        return 0
    try:
        built = build()
    except (BuildError, OSError) as error:
        print(f"No kernel library, so plain PyTorch computes, more slowly: {error}", file=sys.stderr)
        return 1
    without = f"; the compiler is too old for {', '.join(built.left_out)}" if built.left_out else ""
    print(f"built {built.library}{without}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
