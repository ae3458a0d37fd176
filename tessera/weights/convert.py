"""Rewrites a checkpoint in another layout: the same numbers under other names, bit for bit except GGUF's types.

8-bit floats become bfloat16: no layout that is written has a place for their scales.
"""

from __future__ import annotations

from pathlib import Path

from tessera.errors import UsageError
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.detect import Layout, detect
from tessera.weights.fill import Progress
from tessera.weights.write import MAX_SHARD_BYTES, pieces_of, write_folder

LAYOUTS: tuple[Layout, ...] = ("mistral", "hf", "gguf")
DEFAULT_TYPE = "q8_0"


def convert(
    source: Path,
    destination: Path,
    to: str,
    *,
    kind: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write the model in `source` into the new folder `destination`, in layout `to`, streaming.

    `kind` is the type of a GGUF model's matrices: "q8_0" (the default), "q4_0" or "bf16". Raises UsageError
    for an invalid option, CheckpointError for an incomplete source; either way nothing is left behind.
    """
    layout = next((known for known in LAYOUTS if known == to), None)
    if layout is None:
        raise UsageError(f"layout {to!r} is unknown; use {', '.join(LAYOUTS)}.")
    if kind is not None and layout != "gguf":
        raise UsageError(f"type {kind!r} is for GGUF files; the layout {layout} keeps the dtypes: leave the type out.")
    found = detect(source)
    if found == "gguf":
        raise UsageError(f"{source} is a GGUF file, whose rounded weights are not converted; use the model's original.")
    if destination.resolve() == source.resolve():
        raise UsageError(f"{destination} is the source itself; name a new folder.")
    checkpoint = open_checkpoint(source)
    if checkpoint.is_coded:
        raise UsageError(
            f"{source} is quantized, and its weights have no form in the layout {layout}; convert the original."
        )
    if found == layout:
        others = " or ".join(known for known in LAYOUTS if known != layout)
        raise UsageError(f"{source} is in the layout {layout} already; copy the folder, or convert it to {others}.")
    config, sources, tokenizer = checkpoint.config, checkpoint.plain_sources(), checkpoint.tokenizer_file
    if layout == "gguf":
        from tessera.weights.gguf.write import write_gguf

        write_gguf(destination, config, sources, tokenizer, kind or DEFAULT_TYPE, progress=progress)
        return
    pieces = pieces_of(sources, layout, config)
    write_folder(destination, layout, config, pieces, tokenizer, max_shard_bytes=max_shard_bytes, progress=progress)
