"""The commands about models: list, download, convert, merge and quantize them, and show what they need."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.completion import model_names
from tessera.cli.options import DEFAULT_MAX_PIXELS, AsJson, Destination, Device, MaxPixels, Mmproj, Private, Quiet

models = typer.Typer()  # without a name: `cli.app` shows its commands among its own


class Layout(StrEnum):
    """The layouts that `convert` writes."""

    mistral = "mistral"
    hf = "hf"
    gguf = "gguf"


class MergeBase(StrEnum):
    """What `merge` adds an adapter to."""

    full = "full"
    quantized = "quantized"


class MatrixType(StrEnum):
    """The types of matrices in the GGUF files that `convert` and `merge` write."""

    q8_0 = "q8_0"
    q4_0 = "q4_0"
    bf16 = "bf16"


@models.command(epilog="Example: tessera info ~/models/Pixtral-12B-2409")
def info(
    model: Annotated[str, typer.Argument(help="nano, a folder, a GGUF file, or a hub id.")] = "nano",
    mmproj: Mmproj = None,
    json: AsJson = False,
) -> None:
    """Show a model's architecture, layout, parameters, bytes, and what it needs to run."""
    from tessera.cli.info import run_info

    run_info(model, mmproj, as_json=json)


@models.command("list", epilog="Example: tessera list")
def list_models(json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """Show the models on this machine: name, bits, size and path."""
    from tessera.cli.models import run_list

    run_list(as_json=json)


@models.command("rm", epilog="Example: tessera rm pixtral")
def remove_model(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that `tessera list` shows.", autocompletion=model_names)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a downloaded or quantized model."""
    from tessera.cli.models import run_rm

    run_rm(name, yes=yes)


@models.command("ps", epilog="Example: tessera ps --url http://127.0.0.1:8000")
def server_status(
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(help="Its API key; default: TESSERA_API_KEY.")] = None,
    json: AsJson = False,
) -> None:
    """Show a running server: whether it is healthy, its models, requests and cache."""
    from tessera.cli.ps import run_ps

    run_ps(url, api_key, as_json=json)


@models.command(epilog="Example: tessera doctor")
def doctor(json: AsJson = False) -> None:
    """Show which models this machine can run, how fast, and how to get them."""
    from tessera.cli.doctor import run_doctor

    run_doctor(as_json=json)


@models.command(epilog="Example: tessera convert ~/models/pixtral-hf ~/models/pixtral --to mistral")
def convert(
    source: Annotated[str, typer.Argument(help="nano, a folder, or a hub id.")],
    destination: Destination,
    to: Annotated[Layout, typer.Option(help="The layout to write.")],
    type: Annotated[MatrixType | None, typer.Option(help="For gguf: how matrices are stored; default: q8_0.")] = None,
    quiet: Quiet = False,
) -> None:
    """Rewrite a checkpoint in another layout, bit for bit (except GGUF's types), one tensor at a time."""
    from tessera.cli.convert import run_convert

    run_convert(source, destination, to.value, None if type is None else type.value, quiet)


@models.command(epilog="Example: tessera merge my-adapter --into gguf --out pixtral-invoices -m pixtral")
def merge(
    adapter: Annotated[Path, typer.Argument(help="A LoRA adapter: a folder of peft or Mistral, or a GGUF file.")],
    *,
    into: Annotated[Layout, typer.Option(help="The layout to write.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write; created if missing.")],
    base: Annotated[
        MergeBase, typer.Option(help="Add the adapter to a full model's weights, or to a quantized one's values.")
    ] = MergeBase.full,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model to merge into; default: the one that the adapter names."),
    ] = None,
    type: Annotated[MatrixType | None, typer.Option(help="For gguf: how matrices are stored; default: q8_0.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a model with a LoRA adapter merged into its weights, one tensor at a time."""
    from tessera.cli.merge import run_merge

    kind = None if type is None else type.value
    run_merge(adapter, model, out, into=into.value, base=base.value, kind=kind, quiet=quiet)


@models.command(epilog="Example: tessera quantize pixtral --bits 4    Then: tessera ask QUESTION -m pixtral-4bit")
def quantize(
    source: Annotated[str, typer.Argument(help="An unquantized model: nano, a folder, a hub id or a short name.")],
    destination: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="The folder to write; default: your data folder, under a short name."),
    ] = None,
    *,
    bits: Annotated[str, typer.Option(help="Bits of the decoder's layers: 3, 4, 8 or fp8.")] = "4",
    head: Annotated[str, typer.Option(help="Bits of the output layer: 3, 4, 8, fp8 or 16 (unchanged).")] = "8",
    vision: Annotated[
        str,
        typer.Option(
            "--vision-bits",
            "--vision",
            help="Bits of the vision encoder and the adapter: 3, 4, 8, fp8 or 16 (unchanged).",
        ),
    ] = "16",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Images or samples: round weights of 3 or 4 bits for these, and measure the outputs' errors."
        ),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write a model in fewer bits, layer by layer; resumes if interrupted."""
    from tessera.cli.quantize import run_quantize
    from tessera.quantize.plan import Options

    run_quantize(source, destination, Options(bits, head, vision), calibrate, device, quiet)


@models.command(epilog="Examples: tessera download pixtral   or:  tessera download ORG/NAME --file '*Q4_K_M*'")
def download(
    repository: Annotated[str, typer.Argument(help="A hub id, or pixtral.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Which of a repository's GGUF files to get; its mmproj file comes too."),
    ] = None,
) -> None:
    """Get a model's files into the hub's cache; resumes if interrupted. Honours HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    from tessera.hub import download as get
    from tessera.shelf import ALIASES

    typer.echo(get(ALIASES.get(repository, repository), revision, file))


@models.command(epilog="Example: tessera tokens page.png --plot grid.png")
def tokens(
    image: Annotated[list[str], typer.Argument(help="Images: paths or URLs.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Count for this model; default: Pixtral 12B.")
    ] = None,
    mmproj: Mmproj = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write this PNG: the image, only one, under its patch grid.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
) -> None:
    """Show the grid and the number of tokens an image takes."""
    from tessera.cli.tokens import run_tokens

    run_tokens(
        image,
        model,
        mmproj,
        plot=plot,
        as_json=json,
        max_pixels=max_image_pixels,
        allow_private=allow_private_addresses,
    )
