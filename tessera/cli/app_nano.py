"""The commands of `tessera nano`; `cli.nano` does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.options import KVCacheDtype, Model
from tessera.cli.parser import Group

nano = typer.Typer(
    cls=Group, no_args_is_help=True, help="Draw for, train and measure the small model that ships with Tessera."
)


class Reader(StrEnum):
    """Programs that `nano eval` compares with nano."""

    tesseract = "tesseract"


Samples = Annotated[int, typer.Option(min=1, help="Pages of each kind in each group; some kinds get more.")]
Groups = Annotated[list[str], typer.Option(help="Measure only this group of pictures; may be given several times.")]
Against = Annotated[Reader | None, typer.Option(help="Let this program read the same texts.")]


@nano.command("fonts", epilog="Example: tessera nano fonts")
def nano_fonts(
    out: Annotated[
        Path | None, typer.Option(help="The folder; default: $TESSERA_NANO_FONTS, or tessera/nano-fonts in the cache.")
    ] = None,
    debs: Annotated[Path | None, typer.Option(help="A folder with Debian packages that need no download.")] = None,
) -> None:
    """Fetch the typefaces that nano is trained and measured with, from Debian packages."""
    from tessera.cli.nano import run_fonts

    run_fonts(out, debs)


@nano.command("draw", epilog="Example: tessera nano draw samples --count 20")
def nano_draw(
    out: Annotated[Path, typer.Argument(help="The folder for pictures and labels.jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 10,
    seed: Annotated[int, typer.Option(help="The first sample's seed.")] = 0,
) -> None:
    """Draw labelled training pictures."""
    from tessera.cli.nano import run_draw

    run_draw(out, count, seed)


@nano.command("train", epilog="Example: tessera nano train --out runs/nano --processes 2")
def nano_train(
    out: Annotated[Path, typer.Option(help="The run's folder: checkpoint and weights.")] = Path("runs/nano"),
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after this time; run again to resume.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Drawing processes for each training process.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Training processes; on a CPU one per core is fastest.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train nano by its recipe, or resume an interrupted run."""
    from tessera.cli.nano import run_train

    run_train(out, seconds, workers, processes, device)


@nano.command("eval", epilog="Example: tessera nano eval --against tesseract")
def nano_eval(
    model: Model = None,
    samples: Samples = 8,
    group: Groups = [],  # noqa: B006
    against: Against = None,
    kv_cache_dtype: KVCacheDtype = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write every question and reply, as lines of JSON.")] = None,
) -> None:
    """Measure right answers by skill, on pictures that nano was never trained on."""
    from tessera.cli.nano import run_eval

    run_eval(model or "nano", samples, group, None if against is None else against.value, kv_cache_dtype, out)


@nano.command("report", epilog="Example: tessera nano report --out report.html")
def nano_report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    model: Model = None,
    samples: Samples = 8,
    group: Groups = [],  # noqa: B006
    against: Against = None,
) -> None:
    """Write one web page with the tables of `nano eval`, and pictures of what it gets wrong."""
    from tessera.cli.nano import run_report

    run_report(out, model or "nano", samples, group, None if against is None else against.value)


@nano.command("calibrate", epilog="Example: tessera nano calibrate --out calibration.json")
def nano_calibrate(
    model: Model = None,
    papers: Annotated[int, typer.Option(min=1, help="Papers to print as scans, and as many with text layers.")] = 200,
    out: Annotated[Path, typer.Option(help="The calibration to write.")] = Path("calibration.json"),
    verify: Annotated[bool, typer.Option("--verify", help="Calibrate for runs with --verify.")] = False,
) -> None:
    """Measure confidences and boxes on receipts and invoices that Chromium prints; no training drew them."""
    from tessera.cli.boxes import run_nano_calibrate

    run_nano_calibrate(model or "nano", papers, out, verify=verify)
