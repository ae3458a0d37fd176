"""The commands of `tessera bench`; `cli.bench` does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.options import Destination, Mmproj, Quiet
from tessera.cli.parser import Group
from tessera.errors import UsageError

bench = typer.Typer(cls=Group, help="Measure this machine, Tessera on it, and peers.", invoke_without_command=True)


class Peer(StrEnum):
    """Programs that `bench` compares with Tessera."""

    transformers = "transformers"
    llama_cpp = "llama.cpp"


class RandomFormat(StrEnum):
    """The formats that `bench make-random` writes."""

    mistral = "mistral"
    tessera = "tessera"
    gguf = "gguf"


@bench.callback(epilog="Example: tessera bench --peer llama.cpp --layers 8 --plot bench.png")
def bench_all(
    context: typer.Context,
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model to measure; default: random weights of 12B's widths.")
    ] = None,
    mmproj: Mmproj = None,
    peer: Annotated[
        list[Peer], typer.Option(help="A program to compare with, in turns; may be given several times.")
    ] = [],  # noqa: B006
    layers: Annotated[
        int | None, typer.Option(min=1, help="Decoder layers of the random model; default: 4 of 40.")
    ] = None,
    vision_layers: Annotated[
        int | None, typer.Option(min=1, help="Vision layers of the random model; default: 4 of 24.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Decoder bits of the random model: 3, 4 (default), 8 or 16; with transformers always 16."),
    ] = None,
    vision_bits: Annotated[
        str | None, typer.Option(help="Bits of our vision side, of any model: 8, or 16 (default), as it is.")
    ] = None,
    widths: Annotated[str | None, typer.Option(help="Layer widths of the random model: 12b (default) or nano.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many times to measure each row; default: 3.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of every program; default: PyTorch's.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep the random weights in this folder, for reuse.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every measurement to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot each speed as a share of the limit into this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print this machine's limits, and the speed of Tessera and of peers as shares of them."""
    if context.invoked_subcommand is not None:
        if given := [f"--{name.replace('_', '-')}" for name, value in context.params.items() if value]:
            raise UsageError(f"{', '.join(given)} before {context.invoked_subcommand} has no effect; put it after.")
        return
    from tessera.cli.bench import run_bench

    options = {"model": model, "mmproj": mmproj, "layers": layers, "vision_layers": vision_layers, "bits": bits}
    options |= {"vision_bits": vision_bits, "widths": widths, "rounds": rounds, "threads": threads, "folder": folder}
    run_bench(options, [each.value for each in peer], json, plot, quiet=quiet)


@bench.command("make-random", epilog="Example: tessera bench make-random /tmp/random --layers 4 --vision-layers 4")
def bench_make_random(
    destination: Destination,
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers; default: as in the full model.")] = None,
    vision_layers: Annotated[
        int | None, typer.Option(min=1, help="Vision layers; default: as in the full model.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Bits of the decoder's matrices: 3, 4, 8 or 16, if the format can.")] = 16,
    form: Annotated[RandomFormat, typer.Option("--format", help="What to write.")] = RandomFormat.mistral,
    widths: Annotated[str, typer.Option(help="Layer widths: 12b or nano.")] = "12b",
) -> None:
    """Write a model with random weights in a real model's shapes, for measuring."""
    from tessera.cli.bench import run_make_random

    run_make_random(destination, widths, layers, vision_layers, form.value, bits)
