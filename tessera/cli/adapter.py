"""`tessera adapter convert`: one adapter in another program's format, with what that program cannot load."""

from __future__ import annotations

import sys
from pathlib import Path

from tessera.load import find_model, model_name
from tessera.lora.files import base_of, read_adapter, write_mistral
from tessera.lora.gguf_files import write_gguf_adapter
from tessera.lora.peft import write_peft
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.gguf.scaling import architecture_of


def run_convert(source: Path, destination: Path, to: str, model: str | None) -> None:
    """Without a model, the adapter is read for the one that it names."""
    found = find_model(model or base_of(source))
    config = open_checkpoint(found).config
    adapter = read_adapter(source, config)
    if to == "gguf":
        notes = write_gguf_adapter(adapter, destination, architecture_of(config))
    elif to == "mistral":
        notes = write_mistral(adapter, destination, config)
    else:
        notes = write_peft(adapter, destination, config)
    for note in (*adapter.notes, f"an adapter of {model_name(found)}: {adapter.counts(config)}", *notes):
        print(f"tessera: {note}", file=sys.stderr)
    print(destination)
