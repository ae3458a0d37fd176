"""`tessera merge`: write a model with a LoRA adapter merged into it, and say into what and how much was merged."""

from __future__ import annotations

import sys
from pathlib import Path

from tessera.cli.convert import showing_bytes
from tessera.errors import printable
from tessera.load import find_model, model_name
from tessera.lora.files import base_of
from tessera.lora.merge import merge


def run_merge(
    adapter: Path, model: str | None, out: Path, *, into: str, base: str, kind: str | None, quiet: bool
) -> None:
    found = find_model(model or base_of(adapter))
    with showing_bytes(quiet) as progress:
        merged = merge(adapter, found, out, into, base=base, kind=kind, progress=progress)
    what = "the full weights" if merged.base == "full" else "the dequantized values"
    said = (
        *merged.adapter.notes,
        f"merged into {what} of {model_name(found)}, in {str(merged.dtype).removeprefix('torch.')}: {merged.counts}",
    )
    for note in said:
        print(f"tessera: {printable(note)}", file=sys.stderr)
    print(out)
