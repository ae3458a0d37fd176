"""The command `tessera compare`; `cli.compare` does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.app_documents import (
    ApiKey,
    Events,
    Force,
    InFlight,
    Pages,
    PasswordFile,
    Paths,
    PresetDir,
    RetryFailed,
    TilesOption,
    reading,
    settings,
)
from tessera.cli.options import DEFAULT_MAX_PIXELS, Device, Dtype, KVCacheDtype, MaxPixels, Private, Quiet, Ranks

migration = typer.Typer()  # without a name: `cli.app` shows its commands among its own
SIDE = "A folder, GGUF file, hub id, short name or server: http://HOST:PORT, or http://HOST:PORT#MODEL."


class Export(StrEnum):
    """Programs whose files are written."""

    promptfoo = "promptfoo"
    inspect = "inspect"


@migration.command(
    epilog="Example: tessera compare ./old http://gpu-1:8000 docs/ --schema preset:invoice --report migration.html"
)
def compare(
    old: Annotated[str, typer.Argument(metavar="OLD", help=SIDE)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The model that may replace it.")],
    paths: Paths,
    *,
    schema: Annotated[
        str, typer.Option("--schema", "-s", help="A JSON schema's file, module:Model, preset:NAME or a preset's file.")
    ],
    report: Annotated[Path, typer.Option(help="The report to write: one web page, values that differ first.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write every compared value: .jsonl.")] = None,
    labels: Annotated[
        list[Path], typer.Option(metavar="FILE", help="True values, .jsonl or .csv; may be given several times.")
    ] = [],  # noqa: B006
    export: Annotated[list[Export], typer.Option(help="Also write files for this program, beside the report.")] = [],  # noqa: B006
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of values that must agree; below it the exit code is 1.")
    ] = 0.95,
    tolerance: Annotated[float, typer.Option(help="Of numbers, as a share: closer ones agree.")] = 0.0,
    min_similarity: Annotated[float, typer.Option(help="Of texts, as ANLS: more similar ones agree.")] = 1.0,
    pages: Pages = None,
    password_file: PasswordFile = None,
    tiles: TilesOption = None,
    preset_dir: PresetDir = None,
    api_key: ApiKey = None,
    in_flight: InFlight = None,
    retry_failed: RetryFailed = False,
    force: Force = False,
    as_json: Events = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Read documents with two models and compare what they say: who is right, what it costs, go or no-go.

    After any interruption the same command goes on. The exit code is 1 if fewer values agree than --min-agreement.
    """
    from tessera.cli.compare import Comparing, run_compare
    from tessera.documents.presets import open_preset

    given = Comparing(
        sides=(old, new), paths=paths, preset=open_preset(schema, folder=preset_dir), report=report, out=out,
        labels=labels, exports=[each.value for each in export], least=min_agreement,
        rules={"tolerance": tolerance, "similarity": min_similarity},
        reading=reading(pages, password_file, tiles, None, 4),
        settings=settings(None, dtype, device, kv_cache_dtype, tensor_parallel_size,
                          max_image_pixels=max_image_pixels, private=allow_private_addresses),
        api_key=api_key, in_flight=in_flight, retry_failed=retry_failed, force=force, as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if code := run_compare(given):
        raise typer.Exit(code)
