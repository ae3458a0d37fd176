"""A checkpoint rewritten in the other layout: the same numbers, bit for bit, under other names."""

from __future__ import annotations

from pathlib import Path

from tessera.errors import UsageError
from tessera.weights import hf, mistral, published
from tessera.weights.detect import Layout, detect, tokenizer_file
from tessera.weights.stream import Progress
from tessera.weights.write import MAX_SHARD_BYTES, pieces_of, write_folder

LAYOUTS: tuple[Layout, ...] = ("mistral", "hf")


def convert(
    source: Path,
    destination: Path,
    to: str,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write the model in `source` into the new folder `destination`, in layout `to`, streaming.

    Raises UsageError for a wrong wish, CheckpointError for a source that is not whole; either way
    nothing is left behind.
    """
    layout = next((known for known in LAYOUTS if known == to), None)
    if layout is None:
        raise UsageError(f"layout {to!r} is unknown; use {' or '.join(LAYOUTS)}.")
    found = detect(source)
    if destination.resolve() == source.resolve():
        raise UsageError(f"{destination} is the source itself; name a new folder.")
    if found == "tessera" or (found == "hf" and published.is_quantized(source)):
        raise UsageError(
            f"{source} is quantized, and its weights have no form in the layout {layout}; convert the original."
        )
    if found == layout:
        other = LAYOUTS[1 - LAYOUTS.index(layout)]
        raise UsageError(f"{source} is in the layout {layout} already; copy the folder, or convert it to {other}.")
    reader = mistral if found == "mistral" else hf
    config = reader.read_config(source)
    sources = reader.official_sources(source, config)
    write_folder(
        destination,
        layout,
        config,
        pieces_of(sources, layout, config),
        tokenizer_file(source, found, config),
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )
