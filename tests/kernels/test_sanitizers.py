"""All kernels' tests again, in a process whose library checks each address and each undefined operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.kernels.build import BuildError, build, find_compiler
from tessera.kernels.library import choice

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
TESTS = (
    "test_packed_linear.py",
    "test_elementwise.py",
    "test_paged_attention.py",
    "test_prefill_attention.py",
    "test_int8_attention.py",
    "test_wide_attention.py",
    "test_wide_linear.py",
    "test_prefill_linear.py",
    "test_low_rank.py",
    "test_skinny_linear.py",
    "test_unpack_weight.py",
    "../engine/test_native_step.py",
)
# The library's place is told to the builder's module before the loader reads it there; what is emulated is built anew.
RUN = """
import sys
from pathlib import Path
from tessera.kernels import build
build.LIBRARY = Path(sys.argv[1])
import pytest
from tessera.kernels.library import choice
from tests.kernels import emulation
assert choice().path == sys.argv[2], choice().reason
emulation.CHECKS = tuple(sys.argv[3].split())
sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[4:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(choice().path == "torch", reason=f"no kernels: {choice().reason}")
def test_kernels_touch_only_what_is_theirs(tmp_path: Path) -> None:
    library = tmp_path / "sanitized.so"
    try:
        build(SANITIZERS, library)
    except BuildError as error:
        pytest.skip(f"the compiler has no sanitizers: {error}")
    runtimes = [
        subprocess.run(
            [find_compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    folder = Path(__file__).parent
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        # Python and torch keep what they allocate, and torch brings its own C++ runtime.
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(library), choice().path, " ".join(SANITIZERS)]
        + [str(folder / name) for name in TESTS],
        cwd=folder.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout or "100%" in done.stdout
