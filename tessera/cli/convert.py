"""`tessera convert`: rewrite a checkpoint in another layout."""

from __future__ import annotations

import sys
from pathlib import Path

from tessera.load import find_model
from tessera.weights.convert import convert


def run_convert(source: str, destination: Path, to: str, kind: str | None, quiet: bool) -> None:
    shows_progress = sys.stderr.isatty() and not quiet

    def progress(name: str, done: int, total: int) -> None:
        print(f"\r{done / 1e9:8.2f} of {total / 1e9:.2f} GB", end="", file=sys.stderr, flush=True)

    convert(find_model(source), destination, to, kind=kind, progress=progress if shows_progress else None)
    if shows_progress:
        print(file=sys.stderr)
    print(destination)
