"""`tessera serve` and `tessera config show`: one flag for each setting of the server, made from its fields."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import typer.main
from pydantic.fields import FieldInfo

from tessera.cli.completion import among, model_names
from tessera.cli.start import importing
from tessera.errors import UsageError
from tessera.server.settings import Settings, describe, panel_of, resolve_settings
from tessera.server.vllm_names import ALIASES, FIXED, JOINED, OPPOSITES, SEVERAL_AFTER_ONE_FLAG, Fixed

SHORT = {"model": "-m", "tensor_parallel_size": "-tp", "verbose": "-v"}
FOREIGN = "vllm"
TOPIC = "--help="
Action = Callable[[Settings, Mapping[str, str]], None]


def run_serve(arguments: list[str]) -> None:
    def serve(settings: Settings, origins: Mapping[str, str]) -> None:
        from tessera.server.listen import bind

        sockets = bind(settings)  # report a port in use at once, not after the seconds of the next import
        with importing():
            from tessera.server.run import serve

        if origins["model"] == "default":
            print(
                "tessera: serving nano, the small bundled demo model (5M parameters): it reads charts, simple "
                "receipts and short printed text; choose another with -m",
                file=sys.stderr,
            )
        serve(settings, sockets)

    _run("tessera serve", "Serve the OpenAI and Mistral APIs, and a page at /.", serve, arguments)


def run_config_show(arguments: list[str]) -> None:
    def show(settings: Settings, origins: Mapping[str, str]) -> None:
        rows = describe(settings, origins)
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, origin in rows:
            print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")

    _run("tessera config show", "Print every setting of the server and where its value comes from.", show, arguments)


def _run(name: str, text: str, action: Action, arguments: list[str]) -> None:
    """Parse the flags like the rest of the command line, resolve the settings, and act on them."""
    topics = [each.removeprefix(TOPIC) for each in arguments if each.startswith(TOPIC)]
    if topics:
        print("\n\n".join(help_on(topic) for topic in topics))
        return
    _app(text, action)(list(spelled_out(arguments)), prog_name=name, standalone_mode=False)


def made_command() -> Any:
    """Build a no-op command with every flag, for shell completion."""
    return typer.main.get_command(_app("", lambda settings, origins: None))


def _app(text: str, action: Action) -> typer.Typer:
    def command(model_name: str | None = None, config: Path | None = None, **flags: Any) -> None:
        given = {key: value for key, value in flags.items() if value not in (None, [])}
        if model_name is not None and given.setdefault("model", model_name) != model_name:
            raise UsageError(f"two models are given, {model_name!r} and {given['model']!r}; keep one.")
        action(*resolve_settings(given, file=config))

    model = Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False, autocompletion=model_names),
    ]
    config = Annotated[
        Path | None, typer.Option(help="A YAML file of settings; unset: the one that TESSERA_CONFIG names.")
    ]
    parameters = [_parameter("model_name", model), _parameter("config", config)]
    parameters += [_parameter(key, _option(key, field)) for key, field in Settings.model_fields.items()]
    parameters += [_parameter(key, _foreign(key, text)) for key, text in foreign_names()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(
        pretty_exceptions_enable=False, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    epilog = (
        "--help=WORD lists the options that mention WORD, such as --help=cache; --help=vllm the flags of vLLM's that "
    )
    epilog += "mean something here. Settings may also stand in a YAML file, or in the environment as TESSERA_PORT and "
    epilog += "so on; `tessera config show` prints the settings in effect."
    app.command(help=text, epilog=epilog)(command)
    return app


def help_on(topic: str) -> str:
    """Show the settings whose name, heading or description contains the word; raises UsageError if none does."""
    word = topic.strip().lower().lstrip("-").replace("-", "_")
    found = [
        (key, f"{field.description}{_default(field)}")
        for key, field in Settings.model_fields.items()
        if word in key or word in panel_of(key).lower() or word in (field.description or "").lower().replace("-", "_")
    ]
    found += [(key, text) for key, text in foreign_names() if word == FOREIGN or word in key]
    if not word or not found:
        raise UsageError(f"no setting mentions {topic[:40]!r}; `tessera serve --help` shows all.")
    return "\n".join(
        f"{_flag(key)}\n{textwrap.fill(text, 100, initial_indent='    ', subsequent_indent='    ')}"
        for key, text in found
    )


def spelled_out(arguments: Sequence[str]) -> Iterator[str]:
    """Rewrite arguments for Typer: dashes in names, and one value after each flag.

    Example: --limit_mm_per_prompt 8 --api-key a b becomes --limit-mm-per-prompt 8 --api-key a --api-key b.
    """
    several, values = "", 0
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            flag = flag.replace("_", "-")
            several, values = (flag, 0) if flag in SEVERAL_AFTER_ONE_FLAG and not equals else ("", 0)
            yield flag + equals + value
            continue
        if argument.startswith("-"):
            several = ""
        elif several:
            values += 1
            if values > 1:
                yield several
        yield argument


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(name: str, field: FieldInfo) -> Any:
    """Make a flag that defaults to None; its text is checked with the settings."""
    details: dict[str, Any] = {
        "help": f"{field.description}{_default(field)}",
        "rich_help_panel": panel_of(name),
        "show_default": False,
        "autocompletion": model_names if name == "model" else _choices(field),
    }
    if field.annotation is bool:
        return _switch(name, details)
    kind = list[str] | None if _takes_several(field) else str | None
    return Annotated[kind, typer.Option(*_names(name), metavar=_metavar(field), **details)]


def _foreign(name: str, text: str) -> Any:
    details: dict[str, Any] = {"help": text, "hidden": True}  # there are many; `--help=vllm` shows them
    if name in OPPOSITES or (name in FIXED and FIXED[name].is_switch):
        return _switch(name, details)
    return Annotated[str | None, typer.Option(*_names(name), metavar="VALUE", **details)]


def foreign_names() -> Iterator[tuple[str, str]]:
    """Yield vLLM's names that are not settings here, and what they do."""
    for name, own in ALIASES.items():
        yield name, f"The same as {_flag(own)}."
    for name, own in OPPOSITES.items():
        yield name, f"The opposite of {_flag(own)}."
    for name, parts in JOINED.items():
        yield name, f"A JSON object with method ngram, and: {', '.join(_flag(part) for part in parts)}."
    for name, fixed in FIXED.items():
        yield name, _fixed_text(fixed)


def _fixed_text(fixed: Fixed) -> str:
    only = f"Only {' or '.join(fixed.accepted)}" if fixed.accepted else "Refused"
    return f"{only}: {fixed.instead}."


def _switch(name: str, details: dict[str, Any]) -> Any:
    flag = _flag(name)
    names = (f"{flag}/--no-{flag.removeprefix('--')}", *([SHORT[name]] if name in SHORT else []))
    return Annotated[bool | None, typer.Option(*names, **details)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _names(name: str) -> tuple[str, ...]:
    return (_flag(name), SHORT[name]) if name in SHORT else (_flag(name),)


def _choices(field: FieldInfo) -> Callable[[str], list[str]] | None:
    return among(*get_args(field.annotation)) if get_origin(field.annotation) is Literal else None


def _takes_several(field: FieldInfo) -> bool:
    return "tuple" in str(field.annotation)


def _metavar(field: FieldInfo) -> str:
    annotation = str(field.annotation)
    if "Path" in annotation:
        return "PATH"
    is_text = "tuple" in annotation or "Literal" in annotation
    return "NUMBER" if not is_text and ("int" in annotation or "float" in annotation) else "TEXT"


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, (), "") else f" Default: {field.default}."
