"""Options shared by several commands, each defined once, and the options that open a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tessera.cli.completion import among, model_names
from tessera.errors import UsageError
from tessera.shelf import BUNDLED, ModelSource

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_MAX_PIXELS = 64_000_000

Images = Annotated[
    list[str], typer.Option("--image", "-i", metavar="IMAGE", help="Images: paths, URLs, or - for standard input.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A folder, GGUF file, hub id or short name; default: nano.", autocompletion=model_names
    ),
]
Destination = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write; created if missing.")]
Mmproj = Annotated[Path | None, typer.Option(help="A GGUF model's vision part; default: mmproj*.gguf beside it.")]
Adapter = Annotated[Path | None, typer.Option(help="A LoRA adapter to compute with: a folder or a GGUF file.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", autocompletion=among("auto", *DTYPES))]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=among("auto", "cpu", "cuda"))]
KVCacheDtype = Annotated[
    str,
    typer.Option(
        help="Type of cached keys and values: auto, or int8 for half the memory.", autocompletion=among("auto", "int8")
    ),
]
VisionBits = Annotated[
    str,
    typer.Option(
        help="Bits of the vision side, rounded at load: 8, or 16 (unchanged).", autocompletion=among("16", "8")
    ),
]
Ranks = Annotated[
    int, typer.Option(min=1, help="Processes that share the model, each with its own GPU, or all on the CPU.")
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask a server that speaks OpenAI's API, with the key in TESSERA_API_KEY, instead of loading a model.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes on standard error.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest reply in tokens; default: until the context is full.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; higher is more varied.")]
TopP = Annotated[
    float, typer.Option(help="Sample only from the most likely tokens whose probabilities add up to this.")
]
TopK = Annotated[int, typer.Option(help="Sample only from this many of the most likely tokens; 0: all.")]
MinP = Annotated[float, typer.Option(help="Exclude tokens less likely than this fraction of the likeliest.")]
Seed = Annotated[int | None, typer.Option(help="Seed that makes sampling reproducible.")]
Stop = Annotated[list[str], typer.Option(help="End the reply before this text; may be given several times.")]
System = Annotated[str | None, typer.Option(help="A system prompt.")]
MaxPixels = Annotated[int, typer.Option(help="Largest image accepted, in pixels.")]
ImageSide = Annotated[
    int | None,
    typer.Option(
        "--max-image-side",
        metavar="N",
        help="Most pixels along an image's longer edge: fewer are faster and show less. Default: the model's.",
    ),
]
Private = Annotated[bool, typer.Option("--allow-private-addresses", help="Also fetch URLs inside private networks.")]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Work on the machines of this Ray cluster; auto: the one of this machine."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

# A Session's options and defaults. The first group follows a command's images, the other comes last.
NAMING: dict[str, tuple[Any, Any]] = {"model": (Model, None), "mmproj": (Mmproj, None), "adapter": (Adapter, None)}
OPENING: dict[str, tuple[Any, Any]] = {
    "dtype": (Dtype, "auto"),
    "device": (Device, "auto"),
    "kv_cache_dtype": (KVCacheDtype, "auto"),
    "vision_bits": (VisionBits, "16"),
    "tensor_parallel_size": (Ranks, 1),
    "endpoint": (Endpoint, None),
    "max_image_pixels": (MaxPixels, DEFAULT_MAX_PIXELS),
    "max_image_side": (ImageSide, None),
    "allow_private_addresses": (Private, False),
    "quiet": (Quiet, False),
}


def opens_session(command: Callable[..., None]) -> Callable[..., None]:
    """Add a Session's options to a command, which gets them as its first parameter, `session`."""
    session, *own = inspect.signature(command).parameters.values()
    hints = get_type_hints(command, localns={session.annotation: object}, include_extras=True)
    after = next((place for place, parameter in enumerate(own, 1) if parameter.name == "image"), 0)
    own = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own
    ]
    parameters = [*own[:after], *_parameters(NAMING), *own[after:], *_parameters(OPENING)]

    @wraps(command)
    def with_session(**values: Any) -> None:
        given = {name: values.pop(name) for name in (*NAMING, *OPENING)}
        command(_session(**given), **values)

    # Typer reads both, and `wraps` would point it to the command, which has neither.
    with_session.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_session.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del with_session.__wrapped__
    return with_session


def _session(model: str | None, **given: Any) -> Any:
    from tessera.cli.session import Session
    from tessera.messages import check_side

    check_side(given["max_image_side"])
    if given["endpoint"] is not None:
        check_options(given)
    opening = {entry.name: given.pop(entry.name) for entry in fields(ModelSource) if entry.name in given}
    return Session(source=ModelSource(name=model or BUNDLED, **opening), is_default=model is None, **given)


def check_options(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a local model's option if a server is used."""
    local = ("mmproj", "adapter", "dtype", "device", "kv_cache_dtype", "vision_bits", "tensor_parallel_size",
             "max_image_side")  # fmt: skip
    defaults = {name: default for name, (_, default) in {**NAMING, **OPENING}.items()}
    for name in local:
        if given.get(name, defaults[name]) != defaults[name]:
            raise UsageError(excluded(name))


def excluded(name: str) -> str:
    """Return the words for a local model's option beside a server's address, with the way out."""
    way = "the server decides it"
    if name == "adapter":
        way = "the server has adapters as models; name one that it has loaded with -m"
    return f"--{name.replace('_', '-')} and --endpoint exclude each other: {way}."


def _parameters(options: dict[str, tuple[Any, Any]]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]
