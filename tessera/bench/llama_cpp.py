"""llama.cpp as a peer: built from llama-cpp-python's source package, in a separate environment.

`python -m tessera.bench.llama_cpp` builds it. It is compiled here, for this processor; none of it
enters Tessera or its environment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from tessera.errors import MissingExtraError

VERSION = "0.3.36"
FOLDER = Path("build/llama.cpp")
PROGRAM = Path(__file__).parent / "run_llama_cpp.py"


def llama_cpp_command(text: Path, mmproj: Path) -> list[str]:
    """Return the command that measures these two files; raises MissingExtraError if llama.cpp was not built."""
    # Isolated, since this folder has modules of other names and the environment may point to our own packages.
    return [str(interpreter()), "-I", str(PROGRAM), str(text), str(mmproj)]


def interpreter() -> Path:
    """Return the Python that has llama.cpp; raises MissingExtraError if it was not built."""
    if not (FOLDER / "built").exists():
        raise MissingExtraError(
            f"llama.cpp is not in {FOLDER}; build it there with `python -m tessera.bench.llama_cpp` "
            "(a C++ compiler and half an hour of two cores)."
        )
    return FOLDER / "bin" / "python"


def build(folder: Path = FOLDER) -> None:
    """Make the environment and compile into it; a final marker shows that it is complete."""
    venv.create(folder, with_pip=True, clear=True)
    package = f"llama-cpp-python=={VERSION}"
    # Without pip's cache, which keeps what was compiled with other flags.
    options = ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", *options, package], check=True)
    (folder / "built").write_text(f"{package}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tessera.bench.llama_cpp", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where to; default: {FOLDER}")
    build(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
