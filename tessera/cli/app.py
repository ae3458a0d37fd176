"""The commands' names, options and help; what they do is in a file of each, imported on use.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed,
2 wrong usage, 130 interrupted. `--help` imports neither torch nor any model code.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tessera import __version__
from tessera.cli.completion import among, model_names
from tessera.cli.parser import Group, PicturesCommand, SettingsCommand, in_our_words
from tessera.errors import TesseraError, UsageError

CLOSED = "standard output is closed; give it a terminal, a file or a pipe."
DTYPES = ("float32", "bfloat16", "float16")

app = typer.Typer(
    name="tessera",
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions about pictures with Pixtral, on your own machine.",
    epilog="Example: tessera ask 'What is the total?' -i receipt.png",
)
nano = typer.Typer(
    cls=Group, no_args_is_help=True, help="Draw for, train and measure the small model that ships with Tessera."
)
app.add_typer(nano, name="nano")
config = typer.Typer(
    cls=Group, no_args_is_help=True, help="The settings of `tessera serve`: flags, environment, file, defaults."
)
app.add_typer(config, name="config")

bench = typer.Typer(cls=Group, help="Measure this machine, Tessera on it, and peers.", invoke_without_command=True)
app.add_typer(bench, name="bench")

Images = Annotated[
    list[str], typer.Option("--image", "-i", metavar="PICTURE", help="Pictures: paths, URLs, or - for standard input.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A folder, GGUF file, hub id or short name; default: nano.", autocompletion=model_names
    ),
]
Destination = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write; made when absent.")]
Mmproj = Annotated[Path | None, typer.Option(help="A GGUF model's picture part; default: mmproj*.gguf beside it.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", autocompletion=among("auto", *DTYPES))]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=among("auto", "cpu", "cuda"))]
KVCacheDtype = Annotated[
    str,
    typer.Option(
        help="Keys and values of the context: auto, or int8 for half the memory.", autocompletion=among("auto", "int8")
    ),
]
Ranks = Annotated[int, typer.Option(min=1, help="Processes that share the model, each with a GPU, or all on the CPU.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on standard error.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest reply in tokens; default: what the context holds.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; higher is more varied.")]
TopP = Annotated[
    float, typer.Option(help="Sample only from the most likely tokens whose probabilities add up to this.")
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling reproducible.")]
Stop = Annotated[list[str], typer.Option(help="End the reply before this text; may be given several times.")]
System = Annotated[str | None, typer.Option(help="A system prompt.")]
MaxPixels = Annotated[int, typer.Option(help="Largest picture, in pixels.")]
Private = Annotated[bool, typer.Option("--allow-private-addresses", help="Fetch URLs inside this network too.")]
DEFAULT_MAX_PIXELS = 64_000_000


class Reader(StrEnum):
    """Whom `nano eval` measures beside nano."""

    tesseract = "tesseract"


Samples = Annotated[int, typer.Option(min=1, help="Pages of each kind in each group; some kinds get more.")]
Groups = Annotated[list[str], typer.Option(help="Measure only this group of pictures; may be given several times.")]
Against = Annotated[Reader | None, typer.Option(help="Let it read the same texts.")]


class Peer(StrEnum):
    """What `bench` measures beside Tessera."""

    transformers = "transformers"
    llama_cpp = "llama.cpp"


class RandomFormat(StrEnum):
    """The formats that `bench make-random` writes."""

    mistral = "mistral"
    tessera = "tessera"
    gguf = "gguf"


class Layout(StrEnum):
    """The layouts that `convert` writes."""

    mistral = "mistral"
    hf = "hf"
    gguf = "gguf"


class MatrixType(StrEnum):
    """The types of matrices that `convert --to gguf` writes."""

    q8_0 = "q8_0"
    q4_0 = "q4_0"
    bf16 = "bf16"


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
    """Ask questions about pictures with Pixtral, on your own machine."""


# The server's flags are made from its settings, which are imported only when they are wanted.
LATE = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(cls=SettingsCommand, context_settings=LATE, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve the OpenAI and Mistral APIs, and a page to try it, at http://127.0.0.1:8000."""
    from tessera.cli.serve import run_serve

    run_serve(context.args)


@config.command("show", cls=SettingsCommand, context_settings=LATE, add_help_option=False)
def config_show(context: typer.Context) -> None:
    """Print every setting of the server, and where its value came from."""
    from tessera.cli.serve import run_config_show

    run_config_show(context.args)


@app.command(
    cls=PicturesCommand,
    epilog="Examples: tessera ask 'Which bar is highest?' -i chart.png   or:  cat q.txt | tessera ask -i a.png b.png",
)
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION", show_default=False, help="In quotes; without one, or for -, standard input is read."
        ),
    ] = None,
    image: Images = [],  # noqa: B006
    model: Model = None,
    mmproj: Mmproj = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object: text, usage, timings, finish_reason, model.")
    ] = False,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="The reply is JSON of this JSON schema: a file, or its text.")
    ] = None,
    choice: Annotated[list[str], typer.Option(help="The reply is this text, or another that is given so.")] = [],  # noqa: B006
    regex: Annotated[str | None, typer.Option(help="The reply matches this regular expression.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample only from so many of the most likely tokens; 0: all.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens less likely than this share of the likeliest's probability.")
    ] = 0.0,
    seed: Seed = None,
    stop: Stop = [],  # noqa: B006
    logprobs: Annotated[
        int | None, typer.Option(help="Print each token's probability, and those of so many alternatives.")
    ] = None,
    system: System = None,
    continues: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the conversation in this file of JSON lines, not the user's own."),
    ] = None,
    no_log: Annotated[bool, typer.Option("--no-log", help="Do not keep the conversation.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Answer one question about pictures; the answer streams to standard output."""
    from tessera.cli.ask import Answering, grammar_of, run_ask
    from tessera.cli.history import default_file
    from tessera.cli.session import Session

    if log is not None and no_log:
        raise UsageError("--log and --no-log exclude each other; keep one.")
    session = Session(
        model, mmproj, dtype, device, kv_cache_dtype, tensor_parallel_size,
        max_image_pixels, allow_private_addresses, quiet,
    )  # fmt: skip
    params = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
        "seed": seed, "stop": tuple(stop), "logprobs": logprobs,
    }  # fmt: skip
    answering = Answering(json, None if no_log else log or default_file(), continues)
    run_ask(session, words or [], image, system, params, grammar_of(schema, choice, regex), answering)


@app.command(
    cls=PicturesCommand,
    epilog="Example: tessera chat -i page.png    Inside: /image PATH, /reset, /help, /quit; Ctrl-C stops a reply.",
)
def chat(
    image: Images = [],  # noqa: B006
    model: Model = None,
    mmproj: Mmproj = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = [],  # noqa: B006
    system: System = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    tensor_parallel_size: Ranks = 1,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
    quiet: Quiet = False,
) -> None:
    """Talk about pictures over several turns; they stay in the context."""
    from tessera.cli.chat import run_chat
    from tessera.cli.session import Session

    session = Session(
        model, mmproj, dtype, device, kv_cache_dtype, tensor_parallel_size,
        max_image_pixels, allow_private_addresses, quiet,
    )  # fmt: skip
    params = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": tuple(stop)
    }  # fmt: skip
    run_chat(session, image, system, params)


@app.command(epilog="Example: tessera info ~/models/Pixtral-12B-2409")
def info(
    model: Annotated[str, typer.Argument(help="nano, a folder, a GGUF file, or a hub id.")] = "nano",
    mmproj: Mmproj = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a model's architecture, layout, parameters, bytes, and what it needs to run."""
    from tessera.cli.info import run_info

    run_info(model, mmproj, as_json=json)


@app.command("list", epilog="Example: tessera list")
def list_models(json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False) -> None:
    """Show the models on this machine: name, bits, size and path."""
    from tessera.cli.models import run_list

    run_list(as_json=json)


@app.command("rm", epilog="Example: tessera rm pixtral")
def remove_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `tessera list`.", autocompletion=model_names)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a downloaded or quantized model."""
    from tessera.cli.models import run_rm

    run_rm(name, yes=yes)


@app.command("ps", epilog="Example: tessera ps --url http://127.0.0.1:8000")
def server_status(
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(help="Its key; default: TESSERA_API_KEY.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a running server: whether it is healthy, its models, requests and cache."""
    from tessera.cli.ps import run_ps

    run_ps(url, api_key, as_json=json)


@app.command(epilog="Example: tessera doctor")
def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show what this machine can run, why, and the way there."""
    from tessera.cli.doctor import run_doctor

    run_doctor(as_json=json)


@app.command(epilog="Example: tessera convert ~/models/pixtral-hf ~/models/pixtral --to mistral")
def convert(
    source: Annotated[str, typer.Argument(help="nano, a folder, or a hub id.")],
    destination: Destination,
    to: Annotated[Layout, typer.Option(help="The layout to write.")],
    type: Annotated[MatrixType | None, typer.Option(help="For gguf: the type of matrices; default: q8_0.")] = None,
    quiet: Quiet = False,
) -> None:
    """Rewrite a checkpoint in another layout, bit for bit (but for GGUF's types), one tensor at a time."""
    from tessera.cli.convert import run_convert

    run_convert(source, destination, to.value, None if type is None else type.value, quiet)


@app.command(epilog="Example: tessera quantize pixtral --bits 4    Then: tessera ask QUESTION -m pixtral-4bit")
def quantize(
    source: Annotated[str, typer.Argument(help="nano, a folder, a hub id or short name; not quantized yet.")],
    destination: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="The folder to write; default: the user's own, by a short name."),
    ] = None,
    bits: Annotated[str, typer.Option(help="4, 8 or fp8: the decoder's layers.")] = "4",
    head: Annotated[str, typer.Option(help="4, 8, fp8 or 16 (as it is): the output layer.")] = "8",
    vision: Annotated[str, typer.Option(help="4, 8, fp8 or 16 (as it is): the vision encoder and the adapter.")] = "16",
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Pictures, or what `nano draw` writes: round 4 bits for these, and measure outputs."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write a model in fewer bits, layer by layer; resumes if interrupted."""
    from tessera.cli.quantize import run_quantize
    from tessera.quantize.plan import Options

    run_quantize(source, destination, Options(bits, head, vision), calibrate, device, quiet)


@app.command(epilog="Examples: tessera download pixtral   or:  tessera download ORG/NAME --file '*Q4_K_M*'")
def download(
    repository: Annotated[str, typer.Argument(help="A hub id, or pixtral.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    file: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Of a repository of GGUF files: which one; mmproj comes too.")
    ] = None,
) -> None:
    """Get a model's files into the hub's cache; resumes if interrupted. Honours HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    from tessera.hub import download as get
    from tessera.shelf import ALIASES

    typer.echo(get(ALIASES.get(repository, repository), revision, file))


@app.command(epilog="Example: tessera tokens page.png --plot grid.png")
def tokens(
    image: Annotated[list[str], typer.Argument(help="Pictures: paths or URLs.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Count for this model; default: Pixtral 12B.")
    ] = None,
    mmproj: Mmproj = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the patch grid over the (one) picture into this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
    max_image_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    allow_private_addresses: Private = False,
) -> None:
    """Show the grid and the number of tokens a picture takes."""
    from tessera.cli.tokens import run_tokens

    run_tokens(image, model, mmproj, plot, json, max_image_pixels, allow_private_addresses)


@nano.command("fonts", epilog="Example: tessera nano fonts")
def nano_fonts(
    out: Annotated[
        Path | None, typer.Option(help="The folder; default: $TESSERA_NANO_FONTS, or tessera/nano-fonts in the cache.")
    ] = None,
    debs: Annotated[Path | None, typer.Option(help="A folder with Debian packages that need no download.")] = None,
) -> None:
    """Fetch the typefaces that nano is trained and measured with, from Debian packages."""
    from tessera.cli.nano import run_fonts

    run_fonts(out, debs)


@nano.command("draw", epilog="Example: tessera nano draw samples --count 20")
def nano_draw(
    out: Annotated[Path, typer.Argument(help="The folder for pictures and labels.jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 10,
    seed: Annotated[int, typer.Option(help="The first sample's seed.")] = 0,
) -> None:
    """Draw labelled training pictures."""
    from tessera.cli.nano import run_draw

    run_draw(out, count, seed)


@nano.command("train", epilog="Example: tessera nano train --out runs/nano --processes 2")
def nano_train(
    out: Annotated[Path, typer.Option(help="The run's folder: checkpoint and weights.")] = Path("runs/nano"),
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after this time; run again to resume.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw pictures, for each that trains.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train; on a CPU one a core is fastest.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train nano by its recipe, or resume an interrupted run."""
    from tessera.cli.nano import run_train

    run_train(out, seconds, workers, processes, device)


@nano.command("eval", epilog="Example: tessera nano eval --against tesseract")
def nano_eval(
    model: Model = None,
    samples: Samples = 8,
    group: Groups = [],  # noqa: B006
    against: Against = None,
    kv_cache_dtype: KVCacheDtype = "auto",
) -> None:
    """Measure right answers by skill, on pictures that nano was never trained on."""
    from tessera.cli.nano import run_eval

    run_eval(model or "nano", samples, group, None if against is None else against.value, kv_cache_dtype)


@nano.command("report", epilog="Example: tessera nano report --out report.html")
def nano_report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    model: Model = None,
    samples: Samples = 8,
    group: Groups = [],  # noqa: B006
    against: Against = None,
) -> None:
    """Write one web page with the tables of `nano eval`, and pictures of what it gets wrong."""
    from tessera.cli.nano import run_report

    run_report(out, model or "nano", samples, group, None if against is None else against.value)


@bench.callback(epilog="Example: tessera bench --peer llama.cpp --layers 8 --plot bench.png")
def bench_all(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model to measure; default: random weights of 12B's widths.")
    ] = None,
    mmproj: Mmproj = None,
    peer: Annotated[list[Peer], typer.Option(help="Measured beside it, in turns; may be given several times.")] = [],  # noqa: B006
    layers: Annotated[
        int | None, typer.Option(min=1, help="Decoder layers of the random model; default: 4, the whole has 40.")
    ] = None,
    vision_layers: Annotated[
        int | None, typer.Option(min=1, help="Its vision layers; default: 4, the whole has 24.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Its decoder's bits: 4 (the default), 8 or 16; beside transformers always 16.")
    ] = None,
    widths: Annotated[str | None, typer.Option(help="Its widths: 12b (the default) or nano.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each is measured; default: 3.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every side; default: torch's own number.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep random weights here for another time.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every measurement to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the shares of the limit into this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print this machine's limits, Tessera's speed as a share of them, and that of peers on the same weights."""
    if context.invoked_subcommand is not None:
        if given := [f"--{name.replace('_', '-')}" for name, value in context.params.items() if value]:
            raise UsageError(f"{', '.join(given)} before {context.invoked_subcommand} means nothing; give it after.")
        return
    from tessera.cli.bench import run_bench

    options = {"model": model, "mmproj": mmproj, "layers": layers, "vision_layers": vision_layers, "bits": bits}
    options |= {"widths": widths, "rounds": rounds, "threads": threads, "folder": folder}
    run_bench(options, [each.value for each in peer], json, plot, quiet=quiet)


@bench.command("make-random", epilog="Example: tessera bench make-random /tmp/random --layers 4 --vision-layers 4")
def bench_make_random(
    destination: Destination,
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers; default: the whole model's.")] = None,
    vision_layers: Annotated[int | None, typer.Option(min=1, help="Vision layers; default: the same.")] = None,
    bits: Annotated[int, typer.Option(help="Of the decoder's matrices: 4, 8 or 16, as the format has them.")] = 16,
    form: Annotated[RandomFormat, typer.Option("--format", help="What to write.")] = RandomFormat.mistral,
    widths: Annotated[str, typer.Option(help="12b or nano.")] = "12b",
) -> None:
    """Write a model of true shapes with random weights, for measuring."""
    from tessera.cli.bench import run_make_random

    run_make_random(destination, widths, layers, vision_layers, form.value, bits)


def main() -> None:
    """Run the command line and end the process with the right exit code."""
    if sys.stdout is None and sys.argv[1:2] != ["serve"]:  # a server needs none, and elsewhere the result would be lost
        _fail(CLOSED, 1)
    try:
        code = app(prog_name="tessera", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # now, where a full disk or a reader that has gone is told of
        sys.exit(code if isinstance(code, int) else 0)
    except TesseraError as error:
        _fail(_in_flags(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has what it wanted; keep Python from complaining about the rest at exit.
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
    if sys.argv[1:2] and sys.argv[1] in ("serve", "config"):  # their settings' names are their flags'
        return str(error)
    from tessera.cli.session import in_flags

    return in_flags(str(error))


def _in_file_words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else "the output could not be written: "
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the rest is tried again at exit
        return f"{where}no space is left on the disk; free some, or write elsewhere."
    if error.filename is None or not error.strerror:
        return _unexpected(error)
    if error.errno == errno.EISDIR:
        return f"{error.filename} is a folder, and a file is wanted; name a file in it."
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in(str(error.filename))) is not None:
        return f"{file} is a file, and a folder is wanted; name another."
    return f"{error.filename}: {error.strerror}; check the path, its permissions and the disk."


def _file_in(path: str) -> Path | None:
    """What of a path is there already and no folder."""
    return next((each for each in (Path(path), *Path(path).parents) if each.exists() and not each.is_dir()), None)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}; TESSERA_DEBUG=1 shows where. Please report it."


def _fail(message: str, exit_code: int) -> NoReturn:
    if os.environ.get("TESSERA_DEBUG") and sys.exc_info()[0] is not None:
        raise
    print(f"tessera: error: {message}", file=sys.stderr)
    sys.exit(exit_code)
