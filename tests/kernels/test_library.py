"""The kernel library: what is built, what is loaded, what is refused, and that all works without it.

What depends on the environment or on the library's file is asked of a fresh process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.errors import UsageError
from tessera.kernels import build
from tessera.kernels.library import PATHS, choice, forced, kernel

REPOSITORY = Path(__file__).parents[2]
SHOW = "from tessera.kernels.library import choice; print(*vars(choice()).values(), sep='|')"
PRODUCT = """
import torch
from tests.kernels.test_packed_weight import random_weight
from tessera.kernels.packed_linear import linear_twin, packed_linear
weight, inputs = random_weight(4, 37, 256, "minimums"), torch.randn(5, 256)
print(torch.equal(packed_linear(inputs, weight), linear_twin(inputs, weight)))
"""
THREE_STATES = """
from tessera.kernels import build, library
def show():
    library._load.cache_clear()
    print(*vars(library.choice()).values(), sep="|")
whole = build.LIBRARY.read_bytes()
build.LIBRARY.write_bytes(b"no library")
show()
build.LIBRARY.write_bytes(whole)
show()
with (build.SOURCES / "export.h").open("a") as header:
    print(file=header)
show()
"""
built = pytest.mark.skipif(choice().path == "torch", reason=f"no kernels: {choice().reason}")


def python(*arguments: str, folder: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    # Its own folder first: an editable install of the checkout must not stand in for a copy of the package.
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copied_package(tmp_path: Path) -> Path:
    """The package without its library, in a folder of its own."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "weights", "web")
    shutil.copytree(REPOSITORY / "tessera", tmp_path / "tessera", ignore=ignored)
    return tmp_path


@built
def test_paths_are_forced_by_name_and_refused_by_name() -> None:
    highest = choice().path
    for path in PATHS[: PATHS.index(highest) + 1]:
        with forced(path):
            assert choice().path == path
            assert (kernel("packed_linear") is None) == (path == "torch")
    with pytest.raises(UsageError, match="TESSERA_KERNELS=sse is not a kernel path; use one of torch, avx2"):
        forced("sse").__enter__()
    above = PATHS[PATHS.index(highest) + 1 :]
    if above:
        with pytest.raises(UsageError, match=f"TESSERA_KERNELS={above[-1]} is not available: the processor"):
            forced(above[-1]).__enter__()
    assert choice().path == highest  # a refusal leaves nothing behind
    assert kernel("no_such_kernel") is None


def test_every_kernel_that_is_asked_for_is_there() -> None:
    """A kernel that is missing is computed by its twin, so a name spelled wrong would only be slow."""
    sources = "".join(path.read_text() for path in build.SOURCES.iterdir() if path.suffix in (".h", ".cpp"))
    defined = {re.sub("_+$", "", name) for name in re.findall(r"EXPORT int (\w+?)_(?:##|avx|amx)", sources)}
    modules = [path.read_text() for path in (REPOSITORY / "tessera").rglob("*.py")]
    asked = {name for text in modules for name in re.findall(r'\b(?:kernel|_name)\("([a-z]\w*)"', text)}
    assert len(asked) >= 9
    assert asked <= defined


def test_the_environment_chooses_torch() -> None:
    done = python("-c", SHOW + PRODUCT, TESSERA_KERNELS="torch")
    assert done.stdout.split("\n") == ["torch|TESSERA_KERNELS=torch asks for it", "True", ""], done.stderr


def test_without_a_compiler_all_works_and_says_so(copied_package: Path) -> None:
    done = python("-m", "tessera.kernels.build", folder=copied_package, CXX="no-such-compiler")
    assert done.returncode == 1
    assert "no-such-compiler is not on the path" in done.stderr
    shown = python("-c", SHOW, folder=copied_package, CXX="no-such-compiler").stdout
    assert shown.startswith("torch|tessera_kernels.so was not built: no C++ compiler: no-such-compiler is not")


@built
def test_a_damaged_or_stale_library_is_left_alone(copied_package: Path) -> None:
    kernels = copied_package / "tessera/kernels/native"
    shutil.copy(build.LIBRARY, kernels)
    cut, whole, stale, _ = python("-c", THREE_STATES, folder=copied_package).stdout.split("\n")
    assert cut.startswith("torch|tessera_kernels.so does not load")
    assert whole.startswith(choice().path)
    assert stale == "torch|tessera_kernels.so was built from other sources; run `python -m tessera.kernels.build`"


@built
def test_it_brings_no_threads_of_its_own_and_shares_no_code_between_processors() -> None:
    """Linked with no OpenMP runtime; no symbol that the linker may take from another processor's file."""
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("binutils are absent")
    needed = subprocess.run(["readelf", "-d", build.LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed
    assert not any(name in needed for name in ("libgomp", "libomp", "libiomp", "libtorch", "libc10"))
    symbols = subprocess.run(["nm", build.LIBRARY], capture_output=True, text=True, check=True).stdout
    assert re.findall("^[0-9a-f]+ [VWu] .*", symbols, re.MULTILINE) == []


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_an_installation_survives_a_broken_compiler(compiler: str, tmp_path: Path) -> None:
    """The wheel is built all the same, without the library and for any platform."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, project)
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "weights", "web")
    shutil.copytree(REPOSITORY / "tessera", project / "tessera", ignore=ignored)
    done = python("-m", "hatchling", "build", "-t", "wheel", folder=project, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert "no kernel library, so plain PyTorch computes, more slowly" in done.stdout + done.stderr
    assert [wheel.name.split("-", 2)[2] for wheel in (project / "dist").iterdir()] == ["py3-none-any.whl"]
