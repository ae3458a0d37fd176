"""`tessera convert`: rewrite a checkpoint in another layout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.load import find_model
from tessera.weights.convert import convert
from tessera.weights.fill import Progress


def run_convert(source: str, destination: Path, to: str, kind: str | None, quiet: bool) -> None:
    with showing_bytes(quiet) as progress:
        convert(find_model(source), destination, to, kind=kind, progress=progress)
    print(destination)


@contextmanager
def showing_bytes(quiet: bool) -> Iterator[Progress | None]:
    """Show the bytes written on a terminal's standard error; yields None elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return

    def progress(name: str, done: int, total: int) -> None:
        print(f"\r{done / 1e9:8.2f} of {total / 1e9:.2f} GB", end="", file=sys.stderr, flush=True)

    yield progress
    print(file=sys.stderr)
