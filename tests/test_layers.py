"""The package's rows: each file imports only from rows below its own, or from its own.

Imports are read from the syntax tree, so those inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tessera"
# From the top; the parts of one row stand beside each other. The model's config is plain data, and the
# vision settings in it are what images and prompt count tokens by: it stands below them.
ROWS = (
    {"__main__"},
    {"cli"},
    {"fit"},
    {"nano", "bench", "finetune"},
    {"server", "training", "cluster"},
    {"migration.api"},
    {"documents.api"},
    {"llm"},
    {"tool_calls"},
    {"summary"},
    {"engine", "quantize"},
    {"load"},
    {"lora"},
    {"linears"},
    {"parallel", "hub"},
    {"weights"},
    {"model"},
    {"kernels"},
    {"prompt"},
    {"client", "pool"},
    {"client_format"},
    {"migration"},
    {"search", "teaching", "trust"},
    {"labels"},
    {"evals"},
    {"documents"},
    {"conversation", "samples"},
    {"images", "heads"},
    {"decoding"},
    {"raster"},
    {"containers", "sources", "matching"},
    {"children", "fetch", "machine", "threads"},
    {"chat", "model.config"},
    {"messages", "sampling"},
    {"shelf"},
    {"errors"},
)
HEIGHT = {part: len(ROWS) - number for number, row in enumerate(ROWS) for part in row}
FRAMEWORKS = {"fastapi", "starlette", "uvicorn", "typer", "click", "rich", "ray"}
# These name the public interface, whose homes are loaded on first use.
FRONTS = {PACKAGE / folder / "__init__.py" for folder in (".", "documents", "migration")}
FILES = sorted(set(PACKAGE.rglob("*.py")) - FRONTS)


def part_of(module: str) -> str | None:
    """The row's entry that a module belongs to: "tessera.model.rope" -> "model"; None for others' modules."""
    names = module.split(".")
    if names[0] != "tessera" or len(names) == 1:
        return None
    return ".".join(names[1:3]) if ".".join(names[1:3]) in HEIGHT else names[1]


@cache
def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, wherever in it; `from tessera import llm` counts as tessera.llm."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names = {f"tessera.{alias.name}" for alias in node.names} if node.module == "tessera" else set()
            modules.update(names or {str(node.module)})
    return modules


def home_of(path: Path) -> str:
    home = part_of(".".join(("tessera", *path.relative_to(PACKAGE).with_suffix("").parts)))
    return str(home)


def test_every_part_has_a_row() -> None:
    assert {home_of(path) for path in FILES} <= set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    home = home_of(path)
    for module in imported_modules(path):
        part = part_of(module)
        if part is not None and part in HEIGHT and part != home:
            assert HEIGHT[part] < HEIGHT[home], f"{home} imports {module}, which is not below it"


@pytest.mark.parametrize("path", [p for p in FILES if HEIGHT.get(home_of(p), 0) <= HEIGHT["llm"]], ids=home_of)
def test_no_framework_below_llm(path: Path) -> None:
    used = {module.partition(".")[0] for module in imported_modules(path)}
    assert not used & FRAMEWORKS


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tessera.engine import loop\n"
        "def f():\n    import ray.data\n    from tessera import llm, __version__\n"
    )
    assert {"tessera.engine", "ray.data", "tessera.llm"} <= imported_modules(file)


def test_the_public_names_load_late() -> None:
    """`import tessera` and the command line's own file stay free of torch."""
    code = "import sys, tessera, tessera.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    declared = {re.split(r"[><=\[; ]", line, maxsplit=1)[0].lower() for line in lines}
    homes = packages_distributions()
    used = {module.partition(".")[0] for path in FILES for module in imported_modules(path)}
    # llama_cpp and cyllama are imported only in environments that are made for comparisons with them.
    for name in sorted(used - sys.stdlib_module_names - {"tessera", "llama_cpp", "cyllama"}):
        # A module whose optional package is absent here is taken to be named like it.
        packages = {home.lower().replace("_", "-") for home in homes.get(name, [name])}
        assert packages & declared, f"{name} is imported, and pyproject.toml does not name {packages}"
