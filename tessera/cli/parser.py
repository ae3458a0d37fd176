"""Command-line parsing and its error messages: one sentence each, as elsewhere.

Typer's own parser does the work. Here one -i takes several images, values are called TEXT, NUMBER and PATH,
and its errors name the value and the way out.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from tessera.errors import UsageError

IMAGE_FLAGS = ("-i", "--image")
IMAGE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".pdf"
}  # fmt: skip
IMAGE_SCHEMES = ("http://", "https://", "file://", "data:")
# Commands of other programs, and their equivalents here.
ELSEWHERE = {
    "run": "`tessera ask QUESTION -i IMAGE` answers once, `tessera chat` talks, `tessera serve` serves",
    "pull": "`tessera download NAME` gets a model",
    "show": "`tessera info MODEL` describes a model",
    "ls": "`tessera list` shows the models on this machine",
    "models": "`tessera list` shows the models on this machine",
    "delete": "`tessera rm NAME` deletes a model",
    "remove": "`tessera rm NAME` deletes a model",
    "status": "`tessera ps` shows a running server",
    "start": "`tessera serve` starts the server",
    "generate": "`tessera ask QUESTION` answers once",
    "complete": "`tessera ask QUESTION` answers once",
    "help": "`tessera --help` lists the commands",
    "version": "`tessera --version` shows it",
}
MAX_NAME = 220  # bytes of an output file's name; systems take 255
KINDS = {"NUMBER": "a number", "COUNT": "a whole number", "PATH": "a path"}


def names_image(word: str) -> bool:
    """Return True if an argument is an image: a file, a URL, or a name with an image's suffix."""
    if word.startswith(IMAGE_SCHEMES):
        return not any(sign.isspace() for sign in word)
    try:
        return Path(word).is_file() or (Path(word).suffix.lower() in IMAGE_SUFFIXES and " " not in word)
    except (OSError, ValueError):  # too long for a path, or contains NUL
        return False


def spread(words: Sequence[str]) -> Iterator[str]:
    """Put -i before each image. Example: -i a.png b.png becomes -i a.png -i b.png."""
    follows = expected = False
    for word in words:
        if expected:
            expected, follows = False, True
        elif word in IMAGE_FLAGS:
            expected, follows = True, False
        elif follows and names_image(word):
            yield IMAGE_FLAGS[0]
        else:
            follows = word.startswith(f"{IMAGE_FLAGS[1]}=")
        yield word


def check_target(option: str, file: Path) -> None:
    """Refuse an unwritable output file before the work begins; raises UsageError."""
    if (size := len(os.fsencode(file.name))) > MAX_NAME:
        raise UsageError(
            f"{option} {file.name[:40]}... has a name of {size} bytes, and the limit is {MAX_NAME}, because files "
            "beside it have longer ones; shorten it."
        )
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder; name a file in it, such as {file / 'NAME'}.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file} would be in a folder that does not exist; create it, or name another.")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UsageError(f"{option} {file} would be in a folder that you may not write to; name a file in another.")


class ImagesCommand(TyperCommand):
    """A command that takes several images after one -i."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args)))


class SettingsCommand(TyperCommand):
    """A command with flags made from the server's settings, which are imported when it runs or is completed."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if not extra.get("resilient_parsing"):  # set while completion parses the preceding words
            return super().make_context(info_name, args, parent, **extra)
        from tessera.cli.serve import made_command, spelled_out

        return made_command().make_context(info_name, list(spelled_out(args)), parent, **extra)


class Group(TyperGroup):
    """A group that recognizes other programs' commands, and leaves errors to its main function."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            name_values(command.get_params(ctx))
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if len(args) > 1 and (both := f"{args[0]} {args[1]}") in self.commands:
            args = [both, *args[2:]]  # a command of two words beside one that takes any words, such as extract
        if args and args[0] not in self.commands and args[0] in ELSEWHERE and ctx.parent is None:
            raise UsageError(f"No such command {args[0]!r}; {ELSEWHERE[args[0]]}.")
        return super().resolve_command(ctx, args)


def name_values(parameters: Sequence[Any]) -> None:
    """Name an option's value TEXT, NUMBER, COUNT or PATH; a flag has none, and an argument has its own name."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
        if parameter.param_type_name != "option" or parameter.metavar is not None:
            continue
        if parameter.is_flag or getattr(parameter, "count", False):
            parameter.metavar = ""
            continue
        shown = _annotation(parameter)
        known = {"float": "NUMBER", "int": "COUNT", "Path": "PATH"}
        parameter.metavar = next((name for kind, name in known.items() if kind in shown), None)
        if parameter.metavar is None:
            parameter.metavar = "|".join(_choices(parameter)) or "TEXT"


def _annotation(parameter: Any) -> str:
    return str(getattr(getattr(parameter, "type_descriptor", None), "annotation", ""))


def _choices(parameter: Any) -> Sequence[str]:
    choices = getattr(getattr(parameter, "type_descriptor", None), "choices", None) or ()
    return [str(getattr(choice, "value", choice)) for choice in choices]


def in_our_words(error: Any, arguments: Sequence[str]) -> str:
    """Reword a parser error as one sentence with the value and the way out.

    The parser's classes are matched by name: their module depends on Typer's version.
    """
    kind, path = type(error).__name__, getattr(getattr(error, "ctx", None), "command_path", "tessera")
    help_text = f"`{path} --help` lists what there is"
    if kind == "NoSuchOption":
        known = [name for each in error.ctx.command.params for name in (*each.opts, *each.secondary_opts)]
        near = difflib.get_close_matches(error.option_name, known, 1)
        return f"No such option {error.option_name}; " + (f"did you mean {near[0]}?" if near else f"{help_text}.")
    if kind == "MissingParameter":
        return f"Missing {_what(error.param)}; {_meaning(error.param)}."
    if kind == "BadParameter" and error.param is not None:
        return _wrong_value(error, arguments)
    if "unexpected extra argument" in str(error.message):
        extra = str(error.message).rpartition(" (")[2].rstrip(")")
        return f"{extra!r} is one argument too many for `{path}`; {_too_many(extra)}, or see `{path} --help`."
    if kind == "BadOptionUsage" and "does not take a value" in str(error.message):
        return f"{error.option_name} is a flag and takes no value; write {error.option_name} alone."
    if kind == "BadOptionUsage":
        return f"{error.option_name} needs a value after it; `{path} --help` says which."
    return f"{str(error.format_message()).rstrip('.')}{'' if '?' in str(error.message) else f'; {help_text}.'}"


def _too_many(extra: str) -> str:
    if any(names_image(word) for word in extra.split()):
        return "images go after -i"
    return "put a text of several words in quotes"


def _wrong_value(error: Any, arguments: Sequence[str]) -> str:
    parameter = error.param
    name, value = _what(parameter), _given(parameter, arguments)
    is_shown = "" if value is None else f" is {value!r}"
    if choices := _choices(parameter):
        return f"{name}{is_shown}; it must be one of {', '.join(choices)}."
    descriptor = getattr(getattr(parameter, "type_descriptor", None), "parameter_info", None)
    low, high = getattr(descriptor, "min", None), getattr(descriptor, "max", None)
    wanted = KINDS.get(str(parameter.metavar), "another value")
    if low is not None and high is not None:
        wanted += f" between {low} and {high}"
    elif low is not None:
        wanted += f" of at least {low}"
    return f"{name}{is_shown}; it must be {wanted}."


def _given(parameter: Any, arguments: Sequence[str]) -> str | None:
    """The last value of an option on the command line."""
    found = None
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in parameter.opts:
            found = value if equals else next(iter(arguments[place + 1 :]), None)
        elif not word.startswith("--") and (flag := word[:2]) in parameter.opts and len(word) > 2:
            found = word[2:]
    return found


def _what(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return f"argument {parameter.metavar or str(parameter.name).upper()}"


def _meaning(parameter: Any) -> str:
    text = str(getattr(parameter, "help", "") or "").rstrip(".")
    return f"it is {text[:1].lower()}{text[1:]}" if text else "give it"
