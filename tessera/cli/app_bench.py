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
    peer: Annotated[list[Peer], typer.Option(help="Measured beside it, in turns; may be given several times.")] = [],  # noqa: B006
    layers: Annotated[
        int | None, typer.Option(min=1, help="Decoder layers of the random model; default: 4, the whole has 40.")
    ] = None,
    vision_layers: Annotated[
        int | None, typer.Option(min=1, help="Its vision layers; default: 4, the whole has 24.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Its decoder's bits: 4 (the default), 8 or 16; beside transformers always 16.")
    ] = None,
    widths: Annotated[str | None, typer.Option(help="Its widths: 12b (the default) or nano.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each is measured; default: 3.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every side; default: torch's own number.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep random weights here for another time.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every measurement to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the shares of the limit into this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print this machine's limits, Tessera's speed as a share of them, and that of peers on the same weights."""
    if context.invoked_subcommand is not None:
        if given := [f"--{name.replace('_', '-')}" for name, value in context.params.items() if value]:
            raise UsageError(f"{', '.join(given)} before {context.invoked_subcommand} means nothing; give it after.")
        return
    from tessera.cli.bench import run_bench

    options = {"model": model, "mmproj": mmproj, "layers": layers, "vision_layers": vision_layers, "bits": bits}
    options |= {"widths": widths, "rounds": rounds, "threads": threads, "folder": folder}
    run_bench(options, [each.value for each in peer], json, plot, quiet=quiet)


@bench.command("make-random", epilog="Example: tessera bench make-random /tmp/random --layers 4 --vision-layers 4")
def bench_make_random(
    destination: Destination,
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers; default: the whole model's.")] = None,
    vision_layers: Annotated[int | None, typer.Option(min=1, help="Vision layers; default: the same.")] = None,
    bits: Annotated[int, typer.Option(help="Of the decoder's matrices: 4, 8 or 16, as the format has them.")] = 16,
    form: Annotated[RandomFormat, typer.Option("--format", help="What to write.")] = RandomFormat.mistral,
    widths: Annotated[str, typer.Option(help="12b or nano.")] = "12b",
) -> None:
    """Write a model of true shapes with random weights, for measuring."""
    from tessera.cli.bench import run_make_random

    run_make_random(destination, widths, layers, vision_layers, form.value, bits)
