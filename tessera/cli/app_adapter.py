"""The commands of `tessera adapter`; `cli.adapter` does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.parser import Group

adapters = typer.Typer(cls=Group, no_args_is_help=True, help="Write LoRA adapters for other programs.")


class Format(StrEnum):
    """The formats of adapters that are written."""

    peft = "peft"
    mistral = "mistral"
    gguf = "gguf"


@adapters.command(epilog="Example: tessera adapter convert my-adapter my-adapter.gguf --to gguf -m pixtral")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="A LoRA adapter: a folder of peft or Mistral, or a GGUF file.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="OUT", help="What to write: a new folder, or for gguf a new .gguf file.")
    ],
    *,
    to: Annotated[
        Format, typer.Option(help="peft (also vLLM), mistral (mistral-inference) or gguf (llama.cpp's --lora).")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The adapter's model; default: the one that it names.")
    ] = None,
) -> None:
    """Rewrite a LoRA adapter for another program, and say what that cannot load of it."""
    from tessera.cli.adapter import run_convert

    run_convert(source, destination, to.value, model)
