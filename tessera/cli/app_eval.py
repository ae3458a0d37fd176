"""The commands of `tessera eval`; `cli.eval` does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.cli.options import AsJson, System, opens_session
from tessera.cli.parser import Group

if TYPE_CHECKING:
    from tessera.cli.session import Session


class EvalGroup(Group):
    """A group in which any word that is no command is a task."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


class Running(StrEnum):
    """Where the programs run that a model wrote."""

    sandbox = "sandbox"
    unsafe = "unsafe"


class Scoring(StrEnum):
    """How a row of one's own is scored."""

    exact = "exact"
    contains = "contains"
    number = "number"
    anls = "anls"
    json = "json"
    regex = "regex"


evals = typer.Typer(
    cls=EvalGroup,
    no_args_is_help=True,
    help="Measure a model on benchmarks or on your questions: `tessera eval TASK --data PATH --out RUN`.",
    epilog="Tasks: mmmu, mathvista, chartqa, docvqa, vqav2, mm-mt-bench, mmlu, mmlu-pro, math, humaneval, or a .jsonl "
    "or .csv file. Example: tessera eval chartqa --data ChartQA/ -m pixtral --out run",
)
Folders = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that --out named.")]


@evals.command("run", epilog="Example: tessera eval my.jsonl -m nano --out run --scorer contains")
@opens_session
def eval_run(
    session: Session,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A benchmark's name, or a .jsonl or .csv file.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder; one that is there already goes on.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The benchmark's folder or file, or its repository on the hub."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Another split than the benchmark's own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about this many rows, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the rows of --limit.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, max=4096, help="Questions at once; default: the model's own.")
    ] = None,
    judge_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="The judge's server, with its key in TESSERA_JUDGE_API_KEY.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name; default: the first there.")] = None,
    run_code: Annotated[
        Running | None, typer.Option(help="Run the programs that the model writes; unsafe: as you, with no sandbox.")
    ] = None,
    scorer: Annotated[Scoring, typer.Option(help="For rows of your own file that name none.")] = Scoring.exact,
    tolerance: Annotated[float, typer.Option(min=0, help="How far off a number may be, as a share.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply to rows of your own file.")] = 512,
    system: System = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed before.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin anew, without the answers that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a benchmark's questions, score the replies, and print the scores with their 95 % intervals.

    After any interruption the same command goes on.
    """
    from tessera.cli.eval import Evaluation, run_eval

    own = {"scorer": scorer.value, "tolerance": tolerance, "max_tokens": max_tokens, "system": system}
    run_eval(
        Evaluation(
            session=session, task=task, out=out, data=data, split=split, limit=limit, seed=seed, jobs=jobs,
            judge_endpoint=judge_endpoint, judge_model=judge_model,
            run_code=None if run_code is None else run_code.value, own=own, retry_failed=retry_failed, force=force,
            as_json=as_json,
        )
    )  # fmt: skip


@evals.command("report", epilog="Example: tessera eval report run --out report.html")
def eval_report(
    runs: Folders,
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: report.html in the first run.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the data is now, if it has moved.")] = None,
    failures: Annotated[int, typer.Option(min=0, help="Wrong answers to show, evenly taken from all.")] = 100,
) -> None:
    """Write one web page with scores, groups and a gallery of wrong answers; several runs stand side by side."""
    from tessera.cli.eval import run_report

    run_report(runs, out, data, failures)


@evals.command("compare", epilog="Example: tessera eval compare before after")
def eval_compare(
    first: Annotated[Path, typer.Argument(metavar="RUN1", help="A run's folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN2", help="Another's, of the same task and data.")],
    as_json: AsJson = False,
) -> None:
    """Say if a run is better than another, or if chance explains the difference."""
    from tessera.cli.eval import run_compare

    run_compare(first, second, as_json)
