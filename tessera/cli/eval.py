"""`tessera eval`: the data is found, the models are opened when questions are left, and scores are printed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel
from tessera.cli.batch import sigterm_as_interrupt
from tessera.cli.batch_models import LOCAL, digest_of_model
from tessera.cli.parser import check_target
from tessera.cli.progress import showing
from tessera.cli.session import Session, print_json, say, stopping_is_said, write_reply
from tessera.errors import TesseraError, UsageError, counted
from tessera.evals.answers import Score, Summary
from tessera.evals.run import ANSWERS, Plan, answers_of, evaluate
from tessera.evals.task import Task
from tessera.evals.tasks import task_named
from tessera.machine import disk_room, written_whole

OWN = (".jsonl", ".jsonl.gz", ".csv")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of one run; `own` are those of a file of one's own questions."""

    session: Session
    task: str
    out: Path
    data: str | None
    split: str | None
    limit: int | None
    seed: int
    jobs: int | None
    judge_endpoint: str | None
    judge_model: str | None
    run_code: str | None
    own: Mapping[str, Any]
    retry_failed: bool
    force: bool
    as_json: bool


def run_eval(given: Evaluation) -> None:
    task, data = _task(given), _data(given)
    if given.out.exists() and not given.out.is_dir():
        raise UsageError(f"--out {given.out} is a file; name a folder for the run.")
    _check_options(given, task)
    session = given.session
    name, digest = _model(session)
    judge = None if task.judge is None else given.judge_model or given.judge_endpoint
    plan = Plan(
        data=data, model=name, model_digest=digest, split=given.split, limit=given.limit, seed=given.seed, judge=judge
    )
    try:
        with (
            sigterm_as_interrupt(),
            showing(as_json=given.as_json, quiet=session.quiet) as progress,
            stopping_is_said(),
        ):
            summary = evaluate(
                task,
                plan,
                given.out,
                lambda: session.open(given.jobs),
                open_judge=(lambda: _judge(given)) if given.judge_endpoint else None,
                force=given.force,
                retry_failed=given.retry_failed,
                progress=progress,
            )
    except (KeyboardInterrupt, TesseraError) as error:
        if (given.out / ANSWERS).is_file() and not isinstance(error, UsageError):
            session.note(f"what was answered is kept in {given.out}; the same command goes on from there")
        raise
    if given.as_json:
        print_json({"event": "done", "task": task.name, "model": name, **asdict(summary)})
    else:
        write_reply(f"{summary_text(task, name, summary)}\n")
    if summary.flags["failed"]:
        session.note(_failed_text(summary, given.out))
    session.note(f"`tessera eval report {given.out}` shows what was wrong")


def _failed_text(summary: Summary, out: Path) -> str:
    """Say how many questions failed, and why the first of them did."""
    first = next(answer for answer in answers_of(out) if "failed" in answer.flags)
    return (
        f"{summary.flags['failed']:,} of {counted(summary.count, 'question')} got no reply or no score and counted as "
        f"wrong; --retry-failed asks them again. The first, {first.id}: {first.note}"
    )


def _task(given: Evaluation) -> Task:
    if given.task.endswith(OWN) or Path(given.task).is_file():
        from tessera.evals.tasks.own import own_task

        if given.data is not None:
            raise UsageError(f"--data and a file of your own exclude each other: {given.task} is the data.")
        return own_task(Path(given.task), **given.own)
    if given.task == "humaneval" and given.run_code is not None:
        from tessera.evals.sandbox import check
        from tessera.evals.tasks.humaneval import with_runner

        kind = "sandbox" if given.run_code == "sandbox" else "unsafe"
        check(kind)  # type: ignore[arg-type]
        return with_runner(kind)  # type: ignore[arg-type]
    return task_named(given.task)


def _check_options(given: Evaluation, task: Task) -> None:
    """Raise UsageError for options that the task needs or cannot use."""
    if task.name == "humaneval" and given.run_code is None:
        raise UsageError(
            "humaneval runs programs that the model writes; give --run-code sandbox, or --run-code unsafe on a machine "
            "that may be damaged."
        )
    if task.name != "humaneval" and given.run_code is not None:
        raise UsageError(f"--run-code is for humaneval; {task.name} runs no programs.")
    if (task.judge is None) != (given.judge_endpoint is None):
        way = "give --judge-endpoint" if task.judge else "leave --judge-endpoint out"
        raise UsageError(f"{task.name} is {'judged' if task.judge else 'not judged'} by another model; {way}.")
    defaults = {"scorer": "exact", "tolerance": 0.0, "max_tokens": 512, "system": None}
    for name, value in given.own.items():
        if not task.options and value != defaults[name]:
            raise UsageError(f"--{name.replace('_', '-')} is for a file of your own; {task.name} has its own protocol.")


def _data(given: Evaluation) -> Path:
    """Return where the data is, fetched from the hub if a repository is named."""
    if given.task.endswith(OWN) or Path(given.task).is_file():
        if not Path(given.task).is_file():
            raise UsageError(f"{given.task} does not exist; name a .jsonl or .csv file with questions and answers.")
        return Path(given.task)
    task = task_named(given.task)
    if given.data is None:
        raise UsageError(
            f"Missing --data: the folder or file of {task.title}, or its repository on the hub, such as "
            f"{task.repositories[0]}."
        )
    if Path(given.data).exists() or given.data.count("/") != 1 or given.data.startswith((".", "/", "~")):
        return Path(given.data).expanduser()
    from tessera.hub import download_data

    splits = [given.split or task.split, *([task.shots_split] if task.shots_split else [])]
    folder = f"{task.config}/" if task.config else ""
    patterns = [f"*{folder}{each}-*" for each in splits] + [f"*{folder}{each}.*" for each in splits]
    return download_data(given.data, patterns)


def _model(session: Session) -> tuple[str, str]:
    """Return the model's name, and what identifies it: its files' digest, or its server's name for it."""
    if session.endpoint is not None:
        name = session.model
        if name is None:
            with session.open() as client:
                name = client.model_name
        return name, f"{session.endpoint} {name}"
    from tessera.load import locate

    files = digest_of_model(Path(locate(session.source).name), session.source.adapter)
    told = f"{files}, dtype {session.source.dtype}, kv cache {session.kv_cache_dtype}"
    return session.source.name, told + (
        f", vision bits {session.vision_bits}" if session.vision_bits != LOCAL["vision_bits"] else ""
    )


def _judge(given: Evaluation) -> ChatModel:
    from tessera.client import Client

    at_once = {} if given.jobs is None else {"concurrency": given.jobs}
    return Client(
        str(given.judge_endpoint),
        model=given.judge_model,
        api_key=os.environ.get("TESSERA_JUDGE_API_KEY"),
        limits=given.session.limits(),
        **at_once,
    )


def summary_text(task: Task, model: str, summary: Summary) -> str:
    """Return the scores as a small table, and what happened to replies."""
    lines = [f"{task.title}, {model}, {counted(summary.count, 'question')}"]
    width = max(len(name) for name in task.scores)
    for score in summary.scores:
        lines.append(f"  {score.name:<{width}}  {score_text(task, score)}")
    counts = ", ".join(f"{count:,} {flag}" for flag, count in summary.flags.items() if count)
    tokens = f"{counted(summary.prompt_tokens, 'token')} in, {summary.completion_tokens:,} out"
    return "\n".join([*lines, f"  {f'{counts}; ' if counts else ''}{tokens}"])


def score_text(task: Task, score: Score) -> str:
    """Example: "81.8  (95 % interval 80.2 to 83.3)"."""
    digits = 1 if task.scale > 1 else 2
    return f"{score.value:.{digits}f}  (95 % interval {score.low:.{digits}f} to {score.high:.{digits}f})"


def run_report(runs: Sequence[Path], out: Path | None, data: Path | None, failures: int) -> None:
    from tessera.evals.report import report

    target = out or runs[0] / "report.html"
    check_target("--out", target)
    page = report(runs, data=data, shown=failures)
    with disk_room(target.parent), written_whole(target) as partial:
        partial.write_text(page, encoding="utf-8")
    print(target)


def run_compare(first: Path, second: Path, as_json: bool) -> None:
    from tessera.evals.compare import compare

    found = compare(first, second)
    task, digits = found.task, 1 if found.task.scale > 1 else 2
    if as_json:
        told = {
            "score": task.main, "count": found.count, "first": found.first, "second": found.second,
            "difference": found.difference, "low": found.low, "high": found.high, "p": found.p,
            "significant": found.is_significant,
            "gained": [one.id for one, _ in found.gained], "lost": [one.id for one, _ in found.lost],
        }  # fmt: skip
        print_json(told)
        return
    p = "" if found.p is None else f", McNemar's exact p = {found.p:.3g}"
    print(f"{task.title}, {task.main}, {counted(found.count, 'question')} in both")
    print(f"  {first.name:<24} {found.first:.{digits}f}")
    print(f"  {second.name:<24} {found.second:.{digits}f}")
    print(
        f"  difference {found.difference:+.{digits}f}, 95 % interval {found.low:+.{digits}f} to "
        f"{found.high:+.{digits}f} (paired bootstrap){p}"
    )
    print(f"  better on {len(found.gained):,}, worse on {len(found.lost):,}")
    chance = "more than chance explains" if found.is_significant else "no more than chance explains"
    print(f"  {chance}")
    for note in found.notes:
        say(note)
