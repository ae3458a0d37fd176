"""ARCHITECTURE.md's tree and layers say what is so: they are made from the files' first lines and from `ROWS`.

`python -m tests.test_architecture` writes them anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.test_layers import PACKAGE, ROWS

ROOT = PACKAGE.parent
PAGE = ROOT / "ARCHITECTURE.md"
BLOCK = re.compile(r"(<!-- made: (\w+) -->\n```text\n).*?(```\n)", re.DOTALL)
WIDTH = 118
NAME_WIDTH = 24


@cache
def first_line(path: Path) -> str:
    """The first line of a module's docstring, without its period."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].removesuffix(".")


def tree() -> str:
    return "\n".join(_lines(PACKAGE, 0)) + "\n"


def _lines(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    files = sorted(path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
    yield from (_line(path.stem, path, depth + 1) for path in files)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _lines(inner, depth + 1)


def _line(name: str, path: Path, depth: int) -> str:
    start = f"{'  ' * depth}{name} "
    line = f"{start:{NAME_WIDTH + 2 * depth}}{first_line(path)}".rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 3].rsplit(" ", 1)[0] + " ..."


def layers() -> str:
    return "\n".join(", ".join(sorted(row)).replace("model.config", "model/config") for row in ROWS) + "\n"


def rewritten() -> str:
    made = {"tree": tree, "layers": layers}
    return BLOCK.sub(lambda match: match[1] + made[match[2]]() + match[3], PAGE.read_text(encoding="utf-8"))


def test_the_tree_and_the_layers_are_as_the_files_say() -> None:
    assert len(BLOCK.findall(PAGE.read_text(encoding="utf-8"))) == 2
    assert PAGE.read_text(encoding="utf-8") == rewritten(), "run: python -m tests.test_architecture"


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in PACKAGE.rglob("*.py") if not first_line(path)] == []


if __name__ == "__main__":
    PAGE.write_text(rewritten(), encoding="utf-8")
