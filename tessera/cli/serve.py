"""`tessera serve` and `tessera config show`: one flag for each setting of the server, made from its fields."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from tessera.server.settings import Settings, describe, resolve_settings

SHORT = {"model": "-m"}


def run_serve(arguments: list[str]) -> None:
    def serve(settings: Settings, origins: Mapping[str, str]) -> None:
        from tessera.server.run import serve

        if origins["model"] == "default":
            print(
                "tessera: no model given: nano is served, the small bundled one (-m chooses another)", file=sys.stderr
            )
        serve(settings)

    _run("tessera serve", "Serve the OpenAI and Mistral APIs, and a page at /.", serve, arguments)


def run_config_show(arguments: list[str]) -> None:
    def show(settings: Settings, origins: Mapping[str, str]) -> None:
        rows = describe(settings, origins)
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, origin in rows:
            print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")

    _run("tessera config show", "Print every setting of the server, and where its value came from.", show, arguments)


def _run(name: str, text: str, action: Callable[[Settings, Mapping[str, str]], None], arguments: list[str]) -> None:
    """Parse the flags as the rest of the command line is parsed, resolve the settings, and act on them."""

    def command(config: Path | None = None, **flags: Any) -> None:
        given = {key: value for key, value in flags.items() if value not in (None, [])}
        action(*resolve_settings(given, file=config))

    config = Annotated[Path | None, typer.Option(help="A YAML file of settings.")]
    parameters = [_parameter("config", config)]
    parameters += [_parameter(key, _option(key, field)) for key, field in Settings.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(
        pretty_exceptions_enable=False, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(help=text)(command)
    app(arguments, prog_name=name, standalone_mode=True)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(name: str, field: FieldInfo) -> Any:
    """A flag that is None unless it is given; its text is checked where the settings are."""
    flag = "--" + name.replace("_", "-")
    extra = field.json_schema_extra
    details: dict[str, Any] = {
        "help": f"{field.description}{_default(field)}",
        "rich_help_panel": extra["panel"] if isinstance(extra, dict) else None,
        "show_default": False,
    }
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", **details)]
    names = (flag, SHORT[name]) if name in SHORT else (flag,)
    kind = list[str] | None if _takes_several(field) else str | None
    return Annotated[kind, typer.Option(*names, metavar=_metavar(field), **details)]


def _takes_several(field: FieldInfo) -> bool:
    return "tuple" in str(field.annotation)


def _metavar(field: FieldInfo) -> str:
    for kind, name in (("tuple", "TEXT"), ("int", "NUMBER"), ("float", "NUMBER"), ("Path", "PATH")):
        if kind in str(field.annotation):
            return name
    return "TEXT"


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, (), "") else f" Default: {field.default}."
