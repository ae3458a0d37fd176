"""A run of a benchmark in a folder: it begins, goes on after an end at any moment, and is summed up.

The folder holds `run.json`, which says what ran; `answers.journal`, where every question's result is
committed as soon as it is there; for judged tasks `judge.journal`; and at the end `summary.json`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tessera import __version__
from tessera.chat import ChatModel, Completion, Conversation
from tessera.documents.journal import Item, Journal
from tessera.documents.progress import Progress
from tessera.documents.runner import Done
from tessera.documents.runner import run as run_journal
from tessera.errors import TesseraError, UsageError
from tessera.evals.answers import MAX_TEXT, Answer, Summary, answered, failed, summarise
from tessera.evals.rows import Row, Rows, open_rows
from tessera.evals.task import Question, Task
from tessera.evals.tasks import task_of
from tessera.machine import disk_room, written_whole
from tessera.sampling import SamplingParams

ANSWERS, JUDGEMENTS, FACTS, SUMMARY = "answers.journal", "judge.journal", "run.json", "summary.json"
LOOKED_AT = 5  # rows, to see if the data is the task's


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run asks whom, besides the task: the part of its identity that the caller knows."""

    data: Path
    model: str  # its name, as reports show it
    model_digest: str  # of the model's files, or the endpoint's address
    split: str | None = None  # None: the task's
    limit: int | None = None
    seed: int = 0
    judge: str | None = None  # the judge's name


@dataclass(frozen=True)
class Data:
    """A task's rows, and those that its examples are made of."""

    rows: Rows
    shots: Sequence[Row]
    digest: str


def open_data(task: Task, plan: Plan) -> Data:
    """Open a task's files; raises UsageError that says what is missing."""
    rows = open_rows(plan.data, plan.split or task.split, task.config)
    digest, shots = rows.digest(), list[Row]()
    if task.shots_split:
        folder = plan.data if plan.data.is_dir() else plan.data.parent
        examples = open_rows(folder, task.shots_split, task.config)
        shots, digest = list(examples), f"{digest}+{examples.digest()}"
    if not len(rows):
        raise UsageError(f"{plan.data} has no rows.")
    data = Data(rows, shots, digest)
    if not task.options:  # in a file of one's own, each bad row is a failed question
        _check_rows(task, data)
    return data


def _check_rows(task: Task, data: Data) -> None:
    """Raise UsageError if none of the first rows can be asked about: then the files are not the task's, or damaged."""
    first: UsageError | None = None
    for row in range(min(len(data.rows), LOOKED_AT)):
        try:
            task.questions(data.rows[row], data.shots)
            return
        except TesseraError as error:
            first = first or UsageError(f"these are no rows of {task.title} as it is published: {error}")
    if first is not None:
        raise first


def evaluate(
    task: Task,
    plan: Plan,
    out: Path,
    open_model: Callable[[], ChatModel],
    *,
    open_judge: Callable[[], ChatModel] | None = None,
    force: bool = False,
    retry_failed: bool = False,
    progress: Progress = lambda snapshot: None,
) -> Summary:
    """Run a task, or go on with the run in the folder, and sum it up; models are opened only if they are needed."""
    if task.judge is not None and open_judge is None:
        raise UsageError(f"{task.name} is judged by another model; give --judge-endpoint.")
    data = open_data(task, plan)
    out.mkdir(parents=True, exist_ok=True)
    identity = _identity(task, plan, data)
    with Journal.open(out / ANSWERS, identity, force=force) as journal:
        _write(out / FACTS, _facts(task, plan, identity))
        journal.add(_items(task, data.rows, plan))
        if retry_failed:
            journal.retry_failed()
        if journal.counts().left:
            asking = _Asking(task, data)
            with open_model() as model:
                run_journal(journal, model, asking.ask, asking.accept, progress=progress)
        if task.judge is not None and open_judge is not None:
            given = {done.id: Answer.from_json(done.result) for done in journal.results() if not done.failed}
            with Journal.open(out / JUDGEMENTS, _judging(plan, identity), force=force) as judgements:
                _judge(task, data, given, judgements, open_judge, retry_failed=retry_failed, progress=progress)
    summary = summarise(task, answers_of(out))
    _write(out / SUMMARY, asdict(summary))
    return summary


def answers_of(out: Path) -> Iterator[Answer]:
    """Yield a run's answers in the data's order, with their judgements; those that the judge has yet to see are not."""
    judged, waits_for_judge = dict[str, Answer](), task_of(facts_of(out)).judge is not None
    if (out / JUDGEMENTS).is_file():
        with _reading(out, JUDGEMENTS) as journal:
            judged = {result.id: Answer.from_json(result.result) for result in journal.results()}
    with _reading(out, ANSWERS) as journal:
        for result in journal.results():
            if result.id in judged:
                yield judged[result.id]
            elif result.failed or not waits_for_judge:
                yield Answer.from_json(result.result)


def answers_by_place(out: Path) -> dict[tuple[int, int], Answer]:
    """Return a run's answers by row and part; raises UsageError if there are none."""
    answers = {(answer.row, answer.part): answer for answer in answers_of(out)}
    if not answers:
        raise UsageError(f"{out} has no answers yet; run `tessera eval` with --out {out} first.")
    return answers


def facts_of(out: Path) -> Mapping[str, Any]:
    """Return what `run.json` says; raises UsageError if the folder is no run."""
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{out} is no run of `tessera eval`: it has no readable {FACTS}.") from error
    if not isinstance(facts, dict) or not facts.keys() >= {"task", "data", "identity", "judging", "options"}:
        raise UsageError(f"{out / FACTS} does not say what ran; is it from another program?")
    return facts


@contextmanager
def _reading(out: Path, name: str) -> Iterator[Journal]:
    """Open a run's journal whatever its identity is: the file says it itself."""
    if not (out / name).is_file():
        raise UsageError(f"{out} is no run of `tessera eval`: it has no {name}.")
    with Journal.open(out / name, facts_of(out)["judging" if name == JUDGEMENTS else "identity"]) as journal:
        yield journal


def _identity(task: Task, plan: Plan, data: Data) -> dict[str, str]:
    return {
        "task": task.name,
        "data_digest": data.digest,
        "prompt_digest": task.digest,
        "model": plan.model,
        "model_digest": plan.model_digest,
        "limit": str(plan.limit),
        "seed": str(plan.seed),
    }


def _judging(plan: Plan, identity: Mapping[str, str]) -> dict[str, str]:
    return {**identity, "judge": str(plan.judge)}


def _facts(task: Task, plan: Plan, identity: Mapping[str, str]) -> dict[str, Any]:
    """Return what `run.json` says: enough to make the task again, for the report."""
    return {
        "task": task.name,
        "title": task.title,
        "model": plan.model,
        "judge": plan.judge,
        "data": str(plan.data.absolute()),
        "split": plan.split or task.split,
        "options": dict(task.options),
        "identity": dict(identity),
        "judging": _judging(plan, identity),
        "tessera": __version__,
    }


def _items(task: Task, rows: Rows, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield every question's id and place; with a limit, those of rows drawn by the seed."""
    chosen: Sequence[int] = range(len(rows))
    if plan.limit is not None and plan.limit < len(rows):
        chosen = sorted(random.Random(plan.seed).sample(range(len(rows)), plan.limit))
    for row in chosen:
        for part in range(_questions_in(task, rows, row)):
            yield f"{row}.{part}", json.dumps([row, part])


def _questions_in(task: Task, rows: Rows, row: int) -> int:
    """Count a row's questions; a row that cannot be read is one, which fails."""
    try:
        return task.questions_in(rows[row]) if task.judge else 1
    except UsageError:
        return 1


class _Asking:
    """Makes the questions of items and scores the replies; between the two it keeps those that are in flight."""

    def __init__(self, task: Task, data: Data) -> None:
        self.task, self.data = task, data
        self._open: dict[str, Question] = {}

    def ask(self, item: Item) -> tuple[Conversation, SamplingParams]:
        question = self.question(item)
        self._open[item.id] = question
        return question.messages, question.params

    def accept(self, item: Item, reply: Completion | TesseraError) -> Done:
        question, (row, part) = self._open.pop(item.id, None), json.loads(item.payload)
        if question is None or isinstance(reply, TesseraError):
            error = reply if isinstance(reply, TesseraError) else UsageError("the reply came without a question.")
            return Done(failed(self.task, question, error, (row, part)).to_json(), failed=True)
        try:
            verdict = None if self.task.score is None else self.task.score(question, reply.text)
        except UsageError as error:  # such as a regular expression that takes too long on this reply
            return Done(failed(self.task, question, error, (row, part), reply.text).to_json(), failed=True)
        return Done(answered(self.task, question, reply, verdict, (row, part)).to_json())

    def question(self, item: Item) -> Question:
        row, part = json.loads(item.payload)
        found: Question = self.task.questions(self.data.rows[row], self.data.shots)[part]
        return found


def _judge(
    task: Task,
    data: Data,
    given: Mapping[str, Answer],
    journal: Journal,
    open_judge: Callable[[], ChatModel],
    *,
    retry_failed: bool,
    progress: Progress,
) -> None:
    """Let the judge rate every reply."""
    journal.add((key, json.dumps([answer.row, answer.part, answer.reply])) for key, answer in given.items())
    if retry_failed:
        journal.retry_failed()
    if not journal.counts().left:
        return
    judging = _Judging(task, data, given)
    with open_judge() as judge:
        run_journal(journal, judge, judging.ask, judging.accept, progress=progress)


class _Judging:
    """Makes the judge's questions, and adds its ratings to the answers."""

    def __init__(self, task: Task, data: Data, given: Mapping[str, Answer]) -> None:
        self.task, self.data, self.given = task, data, given

    def ask(self, item: Item) -> tuple[Conversation, SamplingParams]:
        judge = self.task.judge
        if judge is None:
            raise UsageError(f"{self.task.name} has no judge.")
        row, part, reply = json.loads(item.payload)
        question = self.task.questions(self.data.rows[row], self.data.shots)[part]
        return judge.ask(question, reply), judge.params

    def accept(self, item: Item, reply: Completion | TesseraError) -> Done:
        answer = self.given[item.id]
        if isinstance(reply, TesseraError) or self.task.judge is None:
            flags = [*answer.flags, "failed"]
            return Done(replace(answer, flags=flags, note=f"the judge failed: {reply}").to_json(), failed=True)
        verdict = self.task.judge.score(reply.text)
        flags = [*answer.flags, *([] if verdict.parsed is not None else ["unparsed"])]
        judged = replace(
            answer, scores=verdict.scores, parsed=verdict.parsed, judgement=reply.text[:MAX_TEXT], flags=flags
        )
        return Done(judged.to_json())


def _write(path: Path, value: Any) -> None:
    with disk_room(path.parent), written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
