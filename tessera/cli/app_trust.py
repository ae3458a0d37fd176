"""The commands that learn from documents whose values are known; `cli.calibrate`, `samples` and `boxes` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.options import Adapter, Endpoint, Model
from tessera.cli.parser import Group

trust = typer.Typer(cls=Group)
boxes = typer.Typer(cls=Group, no_args_is_help=True, help="Where on the page a model reads a value.")


@trust.command("extract calibrate", epilog="Example: tessera extract calibrate labels.jsonl --schema preset:invoice")
def extract_calibrate(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Documents with their true values: .jsonl or .csv.")],
    *,
    schema: Annotated[
        str, typer.Option("--schema", "-s", help="A JSON schema's file, module:Model, preset:NAME or a preset's file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The calibration to write.")] = Path("calibration.json"),
    model: Model = None,
    adapter: Adapter = None,
    endpoint: Endpoint = None,
    verify: Annotated[bool, typer.Option("--verify", help="Calibrate for runs with --verify.")] = False,
) -> None:
    """Turn scores into confidences by documents whose true values are known, and report how good they are."""
    from tessera.cli.calibrate import Labelled, run_calibrate

    run_calibrate(Labelled(labels, schema, out, verify, model, endpoint, adapter))


@trust.command(
    "extract samples",
    epilog="Example: tessera extract samples march.jsonl labels.jsonl --schema preset:invoice --out samples",
)
def extract_samples(
    labels: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS...",
            help="Documents with known values: labels, or rows of extract; later files win.",
        ),
    ],
    *,
    schema: Annotated[
        str, typer.Option("--schema", "-s", help="A JSON schema's file, module:Model, preset:NAME or a preset's file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    model: Model = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the documents to measure with.")] = 0.2,
) -> None:
    """Turn documents whose values are known into samples, to fine-tune the model with and to evaluate it."""
    from tessera.cli.samples import Known, run_samples

    run_samples(Known(labels, schema, out, model, held_out))


@boxes.command("calibrate", epilog="Example: tessera boxes calibrate --model ./pixtral-4bit")
def boxes_calibrate(
    model: Model = None,
    papers: Annotated[int, typer.Option(min=1, help="Papers to print, with Chromium.")] = 20,
    out: Annotated[Path | None, typer.Option(help="The file to write; default: boxes.json beside the weights.")] = None,
) -> None:
    """Find the attention heads that look at what the model reads, and keep them beside its weights."""
    from tessera.cli.boxes import run_boxes

    run_boxes(model or "nano", papers, out)
