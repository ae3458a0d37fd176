"""The commands about archives: `index` and `search`; files of their names do the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.options import AsJson, Device, Dtype, Endpoint, Model, Quiet


class Transcribe(StrEnum):
    """Which pages a model reads."""

    never = "never"
    missing = "missing"
    always = "always"


archives = typer.Typer()  # without a name: `cli.app` shows its commands among its own

Archive = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="PATH",
        help="A folder that was indexed, or an index's file; default: this folder's, or the last that was made.",
    ),
]


@archives.command(epilog="Example: tessera index archive/ && tessera search 'invoice march' --index archive/")
def index(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its documents, and those of the folders in it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The index; default: .tessera-index.db in FOLDER."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passwords of locked documents, one a line.")
    ] = None,
    transcribe: Annotated[
        Transcribe | None,
        typer.Option(
            help="Pages that the model reads; missing: those without a text layer. Default: missing with a "
            "model, else never."
        ),
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Have the model describe each page in a sentence.")
    ] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Keep a vector of each page's image, by the model.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="Have the model extract fields, such as invoice's; total:>100 filters by them.")
    ] = None,
    model: Model = None,
    endpoint: Annotated[
        list[str], typer.Option(metavar="URL", help="Ask this server instead of loading a model; may be given again.")
    ] = [],  # noqa: B006
    api_key: Annotated[str | None, typer.Option(help="The servers' key; default: TESSERA_API_KEY.")] = None,
    in_flight: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, max=4096, help="Requests at once, for each server.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    thumbnails: Annotated[bool, typer.Option(help="Keep a small image of each page, for the search page.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Read again what could not be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress and counts as JSON events, one a line.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a folder of documents searchable, or bring its index up to date; only what is new is read.

    The exit code is 1 if something new could not be read; `tessera search 'code:*'` lists it.
    """
    from tessera.cli.index import Adding, Indexing, run_index

    adding = Adding(
        transcribe=None if transcribe is None else transcribe.value, describe=describe, vectors=vectors,
        preset=preset, model=model,
        endpoints=tuple(endpoint), api_key=api_key, in_flight=in_flight, dtype=dtype, device=device,
    )  # fmt: skip
    given = Indexing(
        adding=adding, folder=folder, out=out, password_file=password_file, thumbnails=thumbnails,
        retry_failed=retry_failed, as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if code := run_index(given):
        raise typer.Exit(code)


@archives.command(epilog="Example: tessera search 'invoice from March, vendor X total:>100' --index archive/")
def search(
    *,
    words: Annotated[
        list[str], typer.Argument(metavar="QUERY", help='Words, "phrases", -not, OR, and filters such as total:>100.')
    ],
    index: Archive = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Pages to show.")] = 10,
    offset: Annotated[int, typer.Option(min=0, max=2000, help="Pages to skip.")] = 0,
    rerank: Annotated[
        bool,
        typer.Option("--rerank", help="Order the first pages by whether a model says that they answer."),
    ] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Also rank pages by the vectors that `index --vectors` made, with -m.")
    ] = False,
    model: Model = None,
    endpoint: Endpoint = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say from which lists a page's score comes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find pages in an archive that was indexed.

    The exit code is 1 if nothing was found.
    """
    from tessera.cli.search import Searching, run_search

    given = Searching(
        limit, offset, rerank=rerank, vectors=vectors, model=model, endpoint=endpoint, explain=explain,
        as_json=as_json,
    )  # fmt: skip
    if code := run_search(" ".join(words), index, given):
        raise typer.Exit(code)
