"""Rows of benchmarks as they are published, changed in every column: each is a question, or an error that says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tessera.errors import TesseraError, UsageError
from tessera.evals.rows import Row, open_rows
from tessera.evals.run import Plan, answers_of, evaluate, open_data
from tessera.evals.task import Task
from tessera.evals.tasks import task_named
from tests.evals.stub import Stub
from tests.evals.test_every_task import NAMES, files
from tests.evals.test_run import conversations, png, write

REPLIES = ("", "A", "Final Answer: 4", "The answer is (B).")
VALUES: tuple[Any, ...] = (
    None, True, 5, -1, 1.5, float("nan"), "", "x", "[", "[1", "[[]]", '["a"]', "<image 9>", "(" * 300, "9" * 20, b"x",
    [], [1], [None], [[]], [{}], ["a", None], {}, {"a": 1},
    '[{"role": "user", "content": [5]}, {"role": "assistant", "content": []}]',
    '[{"role": "user", "content": [{"type": "text"}]}, {"role": "assistant", "content": "a"}]',
)  # fmt: skip


def never(*_: object) -> Any:
    raise AssertionError("no model is needed to see this")


def changed(row: Row) -> Iterator[tuple[str, Row]]:
    """Yield the row without each column, and with each other value in it."""
    for column in row.values:
        rest = {name: value for name, value in row.values.items() if name != column}
        yield f"no {column}", Row(rest, row.file, row.place)
        for value in VALUES:
            yield f"{column} {value!r}", Row(rest | {column: value}, row.file, row.place)


def use(task: Task, row: Row, shots: Sequence[Row]) -> None:
    for question in task.questions(row, shots):
        for reply in REPLIES:
            if task.score is not None:
                task.score(question, reply)
            if task.judge is not None:
                task.judge.ask(question, reply)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_a_question_or_an_error_whatever_a_column_holds(name: str, tmp_path: Path) -> None:
    task, folder = task_named(name), files(name, tmp_path)
    rows = open_rows(folder, task.split, task.config)
    shots = list(open_rows(folder, task.shots_split, task.config)) if task.shots_split else []
    use(task, rows[0], shots)
    refused = dict[str, str]()
    for what, row in changed(rows[0]):
        for given in ((row, shots), (rows[0], [row])) if shots else ((row, shots),):
            try:
                use(task, *given)
            except TesseraError as error:
                refused[what] = str(error)
    assert refused
    assert all(str(rows[0].file) in text for text in refused.values())


def plan_of(data: Path, split: str | None = None) -> Plan:
    return Plan(data=data, model="stub", model_digest="1", split=split)


def test_rows_of_another_benchmark_end_a_run_before_it_begins(tmp_path: Path) -> None:
    files("docvqa", tmp_path / "data")
    with pytest.raises(UsageError, match=r"no rows of MATH .* row 1 has no column 'solution'; its columns are"):
        evaluate(task_named("math"), plan_of(tmp_path / "data", "validation"), tmp_path / "run", never)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "unpublished", "way"),
    [
        ("mmmu", {"answer": "?"}, "use validation"),
        ("mathvista", {"answer": ""}, "use testmini"),
        ("docvqa", {"answers": None}, "answers must be"),
        ("vqav2", {"answers": None}, "is this the test split"),
    ],
)
def test_a_split_without_answers_is_refused(name: str, unpublished: dict[str, Any], way: str, tmp_path: Path) -> None:
    task = task_named(name)
    row = open_rows(files(name, tmp_path / "data"), task.split, task.config)[0]
    write(tmp_path / "data" / task.config / "test-0.parquet", [{**row.values, **unpublished}])
    with pytest.raises(UsageError, match=way):
        open_data(task, plan_of(tmp_path / "data", "test"))


def test_a_damaged_row_among_others_is_one_failed_question(tmp_path: Path) -> None:
    task = task_named("mm-mt-bench")
    (good,) = open_rows(conversations(tmp_path / "good"), task.split)
    bad = {**good.values, "conversation": "[{"}
    write(tmp_path / "data" / "eval-0.parquet", [good.values, bad])
    stub = Stub(lambda conversation, params: "[[5]]")
    summary = evaluate(task, plan_of(tmp_path / "data"), tmp_path / "run", lambda: stub, open_judge=lambda: stub)
    assert (summary.count, summary.flags["failed"]) == (3, 1)
    (failed,) = [answer for answer in answers_of(tmp_path / "run") if "failed" in answer.flags]
    assert "row 2: conversation must be a JSON list of turns" in failed.note


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "test-0.parquet"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(UsageError, match="git lfs pull"):
        open_rows(tmp_path, "test")
    file.write_bytes(png())
    with pytest.raises(UsageError, match="download it again"):
        open_rows(tmp_path, "test")
