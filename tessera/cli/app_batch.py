"""The command `tessera batch`; `cli.batch` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.options import (
    DEFAULT_MAX_PIXELS,
    Device,
    Dtype,
    KVCacheDtype,
    MaxPixels,
    Mmproj,
    Model,
    Private,
    Quiet,
    Ranks,
)

jobs = typer.Typer()  # without a name: `cli.app` shows its commands among its own


@jobs.command(
    epilog="Example: tessera batch requests.jsonl replies.jsonl --endpoint http://a:8000 --endpoint http://b:8000"
)
def batch(
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="Requests, one JSON object a line: OpenAI's batch lines, or Mistral's."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The replies, in the order of the requests.")],
    model: Model = None,
    mmproj: Mmproj = None,
    endpoint: Annotated[
        list[str],
        typer.Option(metavar="URL", help="Ask this server instead of loading a model; may be given several times."),
    ] = [],  # noqa: B006
    api_key: Annotated[str | None, typer.Option(help="The servers' key; default: TESSERA_API_KEY.")] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--jobs",
            min=1,
            max=4096,
            help="Requests at once, for each server; default: 8, or what the model runs.",
        ),
    ] = None,
    served_model_name: Annotated[
        list[str], typer.Option(help="Names that lines may use for the model; default: its own.")
    ] = [],  # noqa: B006
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the lines again that failed before.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin anew, without the results of a journal there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress as JSON events, one a line.")] = False,
    journal: Annotated[
        Path | None, typer.Option(help="Where finished lines are kept until the end; default: OUT.journal.")
    ] = None,
    allowed_local_media_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Lines may name pictures below this folder.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Answer a file of requests; after any interruption the same command goes on.

    Failed lines go to OUT.errors beside OUT, and the exit code is then 1.
    """
    from tessera.cli.batch import Batch, run_batch

    settings = {
        "mmproj": mmproj, "dtype": dtype, "device": device, "kv_cache_dtype": kv_cache_dtype,
        "tensor_parallel_size": tensor_parallel_size, "served_model_name": tuple(served_model_name),
        "allowed_local_media_path": allowed_local_media_path, "max_image_pixels": max_image_pixels,
        "allow_private_addresses": allow_private_addresses,
    }  # fmt: skip
    code = run_batch(
        Batch(
            source=source,
            out=out,
            model=model,
            endpoints=endpoint,
            api_key=api_key,
            in_flight=in_flight,
            settings=settings,
            journal=journal,
            retry_failed=retry_failed,
            force=force,
            as_json=as_json,
            quiet=quiet,
        )
    )
    if code:
        raise typer.Exit(code)
