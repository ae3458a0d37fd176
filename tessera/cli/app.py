"""Command names, options and help; each command's work is in its own file, imported on use.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed,
2 wrong usage, 130 interrupted. `--help` imports neither torch nor any model code.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tessera import __version__
from tessera.cli.app_adapter import adapters
from tessera.cli.app_batch import jobs
from tessera.cli.app_bench import bench
from tessera.cli.app_compare import migration
from tessera.cli.app_documents import documents, presets
from tessera.cli.app_eval import evals
from tessera.cli.app_finetune import teaching
from tessera.cli.app_models import models
from tessera.cli.app_nano import nano
from tessera.cli.app_search import archives
from tessera.cli.app_trust import boxes, trust
from tessera.cli.options import Images, MaxTokens, MinP, Seed, Stop, System, Temperature, TopK, TopP, opens_session
from tessera.cli.parser import Group, ImagesCommand, SettingsCommand, in_our_words
from tessera.cli.start import leave_quickly
from tessera.errors import TesseraError, UsageError, printable

if TYPE_CHECKING:
    from tessera.cli.session import Session

CLOSED = "standard output is closed; give it a terminal, a file or a pipe."

app = typer.Typer(
    name="tessera",
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions about images with Pixtral, on your own machine.",
    epilog="Example: tessera ask 'What is the total?' -i receipt.png",
)
config = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Show the settings of `tessera serve`, from flags, environment, file and defaults.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tessera {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask questions about images with Pixtral, on your own machine."""


# The server's flags are made from its settings, which are imported only when needed.
LATE = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(cls=SettingsCommand, context_settings=LATE, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve the OpenAI and Mistral APIs, and a page to try it, at http://127.0.0.1:8000."""
    from tessera.cli.serve import run_serve

    run_serve(context.args)


@config.command("show", cls=SettingsCommand, context_settings=LATE, add_help_option=False)
def config_show(context: typer.Context) -> None:
    """Print every setting of the server and where its value comes from."""
    from tessera.cli.serve import run_config_show

    run_config_show(context.args)


@app.command(
    cls=ImagesCommand,
    epilog="Examples: tessera ask 'Which bar is highest?' -i chart.png   or:  cat q.txt | tessera ask -i a.png b.png",
)
@opens_session
def ask(
    session: Session,
    *,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION", show_default=False, help="In quotes; if missing or -, standard input is read."
        ),
    ] = None,
    image: Images = [],  # noqa: B006
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, usage, timings, finish_reason, model.")
    ] = False,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="The reply is JSON of this JSON schema: a file, or its text.")
    ] = None,
    choice: Annotated[list[str], typer.Option(help="The reply is this text; given several times, one of them.")] = [],  # noqa: B006
    regex: Annotated[str | None, typer.Option(help="The reply matches this regular expression.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = [],  # noqa: B006
    logprobs: Annotated[
        int | None, typer.Option(help="Print each token's probability, and those of this many alternatives.")
    ] = None,
    system: System = None,
    index: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Answer from an archive that was indexed, and cite its pages.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=8, help="Pages of the index that the model sees, at most.")] = 4,
    continues: Annotated[bool, typer.Option("--continue", "-c", help="Continue the last conversation.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the conversation in this JSON-lines file, not in your own."),
    ] = None,
    no_log: Annotated[bool, typer.Option("--no-log", help="Do not save the conversation.")] = False,
) -> None:
    """Answer one question about images; the answer streams to standard output."""
    from tessera.cli.ask import Answering, grammar_of, run_ask
    from tessera.cli.history import default_file

    if log is not None and no_log:
        raise UsageError("--log and --no-log exclude each other; keep one.")
    params = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
        "seed": seed, "stop": tuple(stop), "logprobs": logprobs,
    }  # fmt: skip
    if index is not None:
        from tessera.cli.ask_index import Asking, run_ask_index

        others = {"an image": image, "--schema": schema, "--choice": choice, "--regex": regex, "--system": system,
                  "--continue": continues, "--logprobs": logprobs is not None}  # fmt: skip
        run_ask_index(session, words or [], Asking(index, top, max_tokens, as_json=json), others)
        return
    answering = Answering(json, None if no_log else log or default_file(), continues)
    grammar = grammar_of(schema, choice, regex)
    run_ask(session, words or [], image, system, params, grammar=grammar, answering=answering)


@app.command(
    cls=ImagesCommand,
    epilog="Example: tessera chat -i page.png    Inside: /image PATH, /reset, /help, /quit; Ctrl-C stops a reply.",
)
@opens_session
def chat(
    session: Session,
    *,
    image: Images = [],  # noqa: B006
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = [],  # noqa: B006
    system: System = None,
) -> None:
    """Talk about images over several turns; they stay in the context."""
    from tessera.cli.chat import run_chat

    params = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": tuple(stop)
    }  # fmt: skip
    run_chat(session, image, system, params)


# Listed after this file's commands, in this order, in `tessera --help`.
app.add_typer(jobs)
app.add_typer(models)
app.add_typer(teaching)
app.add_typer(documents)
app.add_typer(migration)
app.add_typer(archives)
app.add_typer(trust)
app.add_typer(presets, name="presets")
app.add_typer(boxes, name="boxes")
app.add_typer(adapters, name="adapter")
app.add_typer(evals, name="eval")
app.add_typer(nano, name="nano")
app.add_typer(config, name="config")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line and end the process with the right exit code."""
    if sys.stdout is None and sys.argv[1:2] != ["serve"]:  # a server needs none; others would lose their result
        _fail(CLOSED, 1)
    try:
        code = app(prog_name="tessera", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # now, while a full disk or a closed pipe can still be reported
        leave_quickly()
        sys.exit(code if isinstance(code, int) else 0)
    except TesseraError as error:
        _fail(_in_flags(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has closed the pipe; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(_in_file_words(error), 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors
            _fail_parsing(error)
        _fail(_unexpected(error), 1)


def _fail_parsing(error: Any) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    _fail(in_our_words(error, sys.argv[1:]), error.exit_code)


def _in_flags(error: TesseraError) -> str:
    if sys.argv[1:2] and sys.argv[1] in ("serve", "config"):  # their settings and flags share names
        return str(error)
    from tessera.cli.session import in_flags

    return in_flags(str(error))


def _in_file_words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else "the output could not be written: "
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python writes the rest again at exit
        return f"{where}no space is left on the disk; free some, or write elsewhere."
    if error.filename is None or not error.strerror:
        return _unexpected(error)
    if error.errno == errno.EISDIR:
        return f"{error.filename} is a folder, and a file is wanted; name a file in it."
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in(str(error.filename))) is not None:
        return f"{file} is a file, and a folder is wanted; name another."
    return f"{error.filename}: {error.strerror}; check the path, its permissions and the disk."


def _file_in(path: str) -> Path | None:
    """The first part of a path that exists and is not a folder."""
    return next((each for each in (Path(path), *Path(path).parents) if each.exists() and not each.is_dir()), None)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}; TESSERA_DEBUG=1 shows where. Please report it."


def _fail(message: str, exit_code: int) -> NoReturn:
    if os.environ.get("TESSERA_DEBUG") and sys.exc_info()[0] is not None:
        raise
    print(f"tessera: error: {printable(message)}", file=sys.stderr)
    sys.exit(exit_code)
