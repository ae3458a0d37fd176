"""`tessera list` and `tessera rm`: the models on this machine, from any source.

Nano is bundled, the hub's cache holds downloaded models, and the data folder those made by `quantize`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.cli.completion import hub_names
from tessera.errors import CheckpointError, ModelNotFoundError, TesseraError, UsageError
from tessera.hub import cached_folder, repository_folder
from tessera.load import BUNDLED, BUNDLED_FOLDER
from tessera.shelf import ALIASES, SCHEMES, made_models
from tessera.summary import ModelSummary, describe
from tessera.weights.detect import sole_gguf

BITS = {scheme: bits for bits, scheme in SCHEMES.items()}
DTYPE_BITS = {"float32": "32", "bfloat16": "16", "float16": "16"}


@dataclass(frozen=True)
class Listed:
    """A model on this machine; an incomplete one has no bits, and `problem` says why."""

    name: str
    bits: str
    stored_bytes: int
    path: str
    problem: str = ""


def run_list(*, as_json: bool) -> None:
    models = list(listed())
    if as_json:
        print(json.dumps([asdict(model) for model in models]))
        return
    width = max(len(model.name) for model in models)
    print(f"{'name':<{width}}  {'bits':>4}  {'size':>8}  path")
    for model in models:
        print(f"{model.name:<{width}}  {model.bits:>4}  {_size(model.stored_bytes):>8}  {model.path}")
        if model.problem:
            print(f"{'':<{width}}  {model.problem}")


def listed() -> Iterator[Listed]:
    """Yield nano, models made here, and downloaded ones, each group sorted by name."""
    yield _look(BUNDLED, BUNDLED_FOLDER)
    for folder in sorted(made_models().glob("*")):
        if folder.is_dir():
            yield _look(folder.name, folder)
    short = {repository: alias for alias, repository in ALIASES.items()}
    for name in hub_names():
        shown = f"{name} ({short[name]})" if name in short else name
        if (cached := cached_folder(name, None)) is None:
            where = repository_folder(name)
            yield Listed(shown, "-", _bytes_below(where), str(where), "no model, or not whole")
        else:
            yield _look(shown, sole_gguf(cached) or cached)


def run_rm(name: str, *, yes: bool) -> None:
    """Delete a model that `download` or `quantize` put in its default place, after confirmation."""
    folder = _deletable(name)
    size = _size(_bytes_below(folder))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"rm would delete {folder} ({size}) and there is no terminal to confirm it; give --yes.")
        print(f"Delete {folder} ({size})? [y/N] ", end="", file=sys.stderr, flush=True)
        if input().strip().lower() not in ("y", "yes"):
            print("nothing was deleted", file=sys.stderr)
            return
    shutil.rmtree(folder)
    print(f"{folder}: {size} deleted")


def _deletable(name: str) -> Path:
    if name == BUNDLED:
        raise UsageError(
            f"{BUNDLED} is part of Tessera and cannot be deleted; `tessera list` shows what can be deleted."
        )
    made = made_models() / name
    if "/" not in name and name not in ("", ".", "..") and made.is_dir():
        return made
    repository = ALIASES.get(name, name)
    if repository in hub_names():
        return repository_folder(repository)
    if Path(name).exists():
        raise UsageError(f"{name} is your own file or folder; delete it yourself.")
    raise ModelNotFoundError(f"{name!r} is not on this machine; `tessera list` shows what is.")


def _look(name: str, path: Path) -> Listed:
    try:
        summary = describe(path)
    except (CheckpointError, TesseraError) as error:
        return Listed(name, "-", _bytes_below(path), str(path), str(error))
    return Listed(name, _bits(summary), summary.stored_bytes, str(path))


def _bits(summary: ModelSummary) -> str:
    """The bits of most of its matrices."""
    if not summary.quantized:
        return DTYPE_BITS.get(summary.dtype, summary.dtype)
    scheme = max(summary.quantized, key=lambda name: summary.quantized[name])
    return BITS.get(scheme, scheme)


def _bytes_below(path: Path) -> int:
    """The total size of all files; the hub's cache stores each once, with links to it."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
