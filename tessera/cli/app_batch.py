"""The command `tessera batch`; `cli.batch` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli import options
from tessera.cli.options import DEFAULT_MAX_PIXELS

jobs = typer.Typer()  # without a name: `cli.app` shows its commands among its own

Requests = Annotated[
    Path, typer.Argument(metavar="IN", help="Requests, one JSON object a line: OpenAI's batch lines, or Mistral's.")
]
Replies = Annotated[Path, typer.Argument(metavar="OUT", help="The replies, in the order of the requests.")]
Endpoints = Annotated[
    list[str], typer.Option(metavar="URL", help="Ask this server, instead of loading a model; may be given again.")
]
Key = Annotated[str | None, typer.Option(help="The servers' key; default: TESSERA_API_KEY.")]
InFlight = Annotated[
    int | None,
    typer.Option(
        "-j", "--jobs", min=1, max=4096, help="Requests at once; default: 8 a server, or what the model runs."
    ),
]
Names = Annotated[list[str], typer.Option(help="Names that lines may use for the model; default: its own.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again the lines that failed before.")]
Force = Annotated[bool, typer.Option("--force", help="Begin anew, and give up the results of a journal that is there.")]
Events = Annotated[bool, typer.Option("--json", help="Progress as JSON events, one a line.")]
JournalFile = Annotated[Path | None, typer.Option(help="Where replies are kept until the end; default: OUT.journal.")]
MediaFolder = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Lines may name images below this folder.")]


@jobs.command(epilog="Example: tessera batch requests.jsonl replies.jsonl --endpoint http://gpu-1:8000")
def batch(
    *,
    source: Requests,
    out: Replies,
    model: options.Model = None,
    mmproj: options.Mmproj = None,
    adapter: options.Adapter = None,
    endpoint: Endpoints = [],  # noqa: B006
    api_key: Key = None,
    in_flight: InFlight = None,
    ray: options.Ray = None,
    served_model_name: Names = [],  # noqa: B006
    retry_failed: Retry = False,
    force: Force = False,
    as_json: Events = False,
    journal: JournalFile = None,
    allowed_local_media_path: MediaFolder = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    kv_cache_dtype: options.KVCacheDtype = "auto",
    vision_bits: options.VisionBits = "16",
    tensor_parallel_size: options.Ranks = 1,
    max_image_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: options.Private = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer a file of requests; after any interruption the same command goes on.

    Failed lines go to a file beside OUT, replies.errors.jsonl for replies.jsonl; the exit code is then 1.
    """
    from tessera.cli.batch import Batch, run_batch

    settings = {
        "mmproj": mmproj, "adapter": adapter, "dtype": dtype, "device": device, "kv_cache_dtype": kv_cache_dtype,
        "vision_bits": vision_bits, "tensor_parallel_size": tensor_parallel_size,
        "served_model_name": tuple(served_model_name), "allowed_local_media_path": allowed_local_media_path,
        "max_image_pixels": max_image_pixels, "allow_private_addresses": allow_private_addresses,
    }  # fmt: skip
    given = Batch(
        source, out, model, endpoint, api_key, in_flight, settings, journal,
        retry_failed=retry_failed, force=force, as_json=as_json, quiet=quiet, ray=ray,
    )  # fmt: skip
    if code := run_batch(given):
        raise typer.Exit(code)
