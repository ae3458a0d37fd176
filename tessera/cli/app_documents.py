"""The commands about documents: `extract`, `transcribe` and `presets`; files of their names do the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.options import (
    DEFAULT_MAX_PIXELS,
    Adapter,
    AsJson,
    Device,
    Dtype,
    KVCacheDtype,
    MaxPixels,
    Mmproj,
    Model,
    Private,
    Quiet,
    Ranks,
    Ray,
    VisionBits,
)
from tessera.cli.parser import Group

documents = typer.Typer()  # without a name: `cli.app` shows its commands among its own
presets = typer.Typer(
    cls=Group, help="What can be asked of documents: invoice, receipt, table...", invoke_without_command=True
)


class Tiles(StrEnum):
    """Whether a page is shown again in parts."""

    auto = "auto"
    off = "off"
    two_by_two = "2x2"


Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATHS...", help="PDFs, images, mails, archives, office files; folders and patterns."),
]
Pages = Annotated[str | None, typer.Option(metavar="RANGES", help='Of each document, such as "1-5,8,-1".')]
PasswordFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Passwords of locked documents, one a line.")]
TilesOption = Annotated[
    Tiles | None, typer.Option(help="Show a page again in parts; auto: when type is small. Default: the preset's.")
]
ImageSide = Annotated[
    int | None,
    typer.Option(
        "--max-image-side",
        metavar="N",
        help="Most pixels along a page's longer edge: fewer are faster. Default: the preset's, or the model's.",
    ),
]
Rotation = Annotated[
    bool | None,
    typer.Option(
        "--detect-rotation/--no-detect-rotation",
        help="Ask the model which way is up, for pages without text. Default: the preset's; not if the model is small.",
    ),
]
Retries = Annotated[
    int, typer.Option(min=0, max=8, help="Further tries of a reply that loops, is cut, or is not whole.")
]
Endpoints = Annotated[
    list[str],
    typer.Option(
        "--endpoint", metavar="URL", help="Ask this server instead of loading a model; may be given several times."
    ),
]
ApiKey = Annotated[str | None, typer.Option(help="The servers' key; default: TESSERA_API_KEY.")]
InFlight = Annotated[
    int | None, typer.Option("-j", "--jobs", min=1, max=4096, help="Requests at once, for each server.")
]
JournalFile = Annotated[
    Path | None, typer.Option(help="Where finished pages are kept until the end; default: OUT.journal.")
]
Force = Annotated[bool, typer.Option("--force", help="Begin anew, without the results of a journal there.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try the pages again that failed before.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print pages, requests and tokens; ask nothing.")]
Events = Annotated[bool, typer.Option("--json", help="Progress as JSON events, one a line, and the counts at the end.")]
PresetDir = Annotated[Path | None, typer.Option(metavar="FOLDER", help="A folder of further presets.")]


@documents.command(epilog="Example: tessera extract invoices/*.pdf --schema preset:invoice --out rows.xlsx")
def extract(
    *,
    paths: Paths,
    schema: Annotated[
        str, typer.Option("--schema", "-s", help="A JSON schema's file, module:Model, preset:NAME or a preset's file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table: .xlsx, .csv, .jsonl or .parquet.")],
    report: Annotated[
        Path | None, typer.Option(help="Also write one web page for reviewing: doubtful values first, on their pages.")
    ] = None,
    model: Model = None,
    mmproj: Mmproj = None,
    adapter: Adapter = None,
    endpoint: Endpoints = [],  # noqa: B006
    api_key: ApiKey = None,
    in_flight: InFlight = None,
    ray: Ray = None,
    pages: Pages = None,
    password_file: PasswordFile = None,
    tiles: TilesOption = None,
    max_image_side: ImageSide = None,
    detect_rotation: Rotation = None,
    retries: Retries = 4,
    max_error: Annotated[
        float, typer.Option(help="Largest share of wrong values among those not sent to review.")
    ] = 0.01,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="The model's calibration, which turns scores into confidences. Default: the one beside its weights."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read each value again in the part of the page where it was found.")
    ] = False,
    strict_nulls: Annotated[
        bool, typer.Option("--strict-nulls", help="Only values that the schema says so of may be null.")
    ] = False,
    preset_dir: PresetDir = None,
    csv_raw: Annotated[
        bool, typer.Option("--csv-raw", help="No ' before texts in .csv that a spreadsheet would run.")
    ] = False,
    journal: JournalFile = None,
    retry_failed: RetryFailed = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Events = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    vision_bits: VisionBits = "16",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Turn documents into rows that follow a schema; after any interruption the same command goes on.

    The exit code is 0 if all is good, 3 if some records ask for review, 1 if some documents failed.
    """
    from tessera.cli.documents import Job
    from tessera.cli.extract import run_extract
    from tessera.documents.presets import open_preset

    job = Job(
        paths=paths, out=out, journal=journal, preset=open_preset(schema, folder=preset_dir, strict_nulls=strict_nulls),
        reading=reading(pages, password_file, tiles, detect_rotation, retries)
        | {"max_image_side": max_image_side, "max_error": max_error, "verify": verify},
        calibration=calibration, report=report,
        model=model, endpoints=endpoint, api_key=api_key, in_flight=in_flight, ray=ray,
        settings=settings(mmproj, dtype, device, kv_cache_dtype, tensor_parallel_size,
                          adapter=adapter, vision_bits=vision_bits, max_image_pixels=max_image_pixels,
                          private=allow_private_addresses),
        retry_failed=retry_failed, force=force, dry_run=dry_run, as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if code := run_extract(job, csv_raw=csv_raw):
        raise typer.Exit(code)


@documents.command(epilog="Example: tessera transcribe report.pdf --out report.md")
def transcribe(
    *,
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown: .md or .txt; .json has the shape of /v1/ocr.")],
    preset: Annotated[str, typer.Option(help="What to ask for pages without a text layer.")] = "preset:transcribe",
    from_image: Annotated[
        bool, typer.Option("--from-image", help="Read the image of every page, also where there is a text layer.")
    ] = False,
    model: Model = None,
    mmproj: Mmproj = None,
    adapter: Adapter = None,
    endpoint: Endpoints = [],  # noqa: B006
    api_key: ApiKey = None,
    in_flight: InFlight = None,
    ray: Ray = None,
    pages: Pages = None,
    password_file: PasswordFile = None,
    tiles: TilesOption = None,
    max_image_side: ImageSide = None,
    detect_rotation: Rotation = None,
    retries: Retries = 4,
    preset_dir: PresetDir = None,
    journal: JournalFile = None,
    retry_failed: RetryFailed = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Events = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    vision_bits: VisionBits = "16",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Write the text of documents as Markdown, page by page: from the text layer where it is good, else by the model.

    The exit code is 1 if some pages have a problem; the output says which.
    """
    from tessera.cli.documents import Job
    from tessera.cli.transcribe import run_transcribe
    from tessera.documents.presets import open_preset

    job = Job(
        paths=paths, out=out, journal=journal, preset=open_preset(preset, folder=preset_dir),
        reading=reading(pages, password_file, tiles, detect_rotation, retries) | {"max_image_side": max_image_side},
        model=model, endpoints=endpoint, api_key=api_key, in_flight=in_flight, ray=ray,
        settings=settings(mmproj, dtype, device, kv_cache_dtype, tensor_parallel_size,
                          adapter=adapter, vision_bits=vision_bits, max_image_pixels=max_image_pixels,
                          private=allow_private_addresses),
        retry_failed=retry_failed, force=force, dry_run=dry_run, as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if code := run_transcribe(job, from_image=from_image):
        raise typer.Exit(code)


@presets.callback(epilog="Example: tessera presets show invoice")
def list_presets(context: typer.Context, *, json: AsJson = False, preset_dir: PresetDir = None) -> None:
    """List the presets, the user's own among them."""
    if context.invoked_subcommand is None:
        from tessera.cli.presets import run_presets

        run_presets(preset_dir, as_json=json)


@presets.command("show", epilog="Example: tessera presets show invoice > mine.yaml")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `tessera presets`.")],
    preset_dir: PresetDir = None,
) -> None:
    """Print a preset's file: a copy with another name, changed, is a preset of one's own."""
    from tessera.cli.presets import run_show

    run_show(name, preset_dir)


def reading(
    pages: str | None, password_file: Path | None, tiles: Tiles | None, detect_rotation: bool | None, retries: int
) -> dict[str, Any]:
    from tessera.cli.documents import passwords_in

    return {
        "pages": pages, "passwords": () if password_file is None else passwords_in(password_file), "retries": retries,
        "tiles": None if tiles is None else tiles.value, "detect_rotation": detect_rotation,
    }  # fmt: skip


def settings(
    mmproj: Path | None, dtype: str, device: str, kv_cache_dtype: str, ranks: int, *, adapter: Path | None = None,
    vision_bits: str = "16", max_image_pixels: int, private: bool,
) -> dict[str, Any]:  # fmt: skip
    """The server's settings that open a model in this process, by name."""
    return {
        "mmproj": mmproj, "adapter": adapter, "dtype": dtype, "device": device, "kv_cache_dtype": kv_cache_dtype,
        "vision_bits": vision_bits, "tensor_parallel_size": ranks, "served_model_name": (),
        "allowed_local_media_path": None, "max_image_pixels": max_image_pixels, "allow_private_addresses": private,
    }  # fmt: skip
