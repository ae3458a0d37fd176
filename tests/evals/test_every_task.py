"""Every built-in task with nano, over small files in the published formats: killed after an answer, and gone on with.

Replies are cut at a few tokens, for time; what is compared is the run that was killed with one that was not.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tessera import LLM
from tessera.documents.journal import Item, Journal
from tessera.evals import run as running
from tessera.evals.answers import Answer, Summary
from tessera.evals.run import FACTS, Plan, answers_of
from tessera.evals.sandbox import check
from tessera.evals.task import Task
from tessera.evals.tasks import task_named
from tests.evals.test_run import PROBLEM, chartqa, conversations, mmmu, png, struct, write

TOKENS = 6
NAMES = ("mmmu", "mathvista", "chartqa", "docvqa", "vqav2", "mm-mt-bench", "mmlu", "mmlu-pro", "math", "humaneval")
KILLED = """
import os, signal, sys
from pathlib import Path
from tessera.documents.journal import Journal
from tests.evals.test_every_task import evaluate
finish = Journal.finish
def once(self, *given, **named):
    finish(self, *given, **named)
    self.flush()
    os.kill(os.getpid(), signal.SIGKILL)
Journal.finish = once
evaluate(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""
pytestmark = pytest.mark.slow


def files(name: str, folder: Path) -> Path:
    """Write three rows or so of a task in its published columns."""
    shaped = {"mmmu": mmmu, "chartqa": chartqa, "mm-mt-bench": conversations}
    if name in shaped:
        return shaped[name](folder)
    people = [{"answer": "yes", "answer_id": number} for number in range(10)]
    choices: dict[str, Any] = {"question": "1+1?", "options": ["1", "2"], "answer": "B", "category": "math"}
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "mathvista": ("testmini", {
            "pid": "1", "question": "q", "choices": ["3", "7"], "precision": None, "answer": "7", "unit": None,
            "question_type": "multi_choice", "answer_type": "text", "query": "Choices:\n(A) 3\n(B) 7",
            "image": "images/1.jpg", "decoded_image": struct(), "metadata": {"task": "t"},
        }),
        "docvqa": ("DocVQA/validation", {
            "questionId": "1", "question": "Name?", "question_types": ["form"], "image": struct(), "docId": 1,
            "answers": ["Paris"], "data_split": "val",
        }),
        "vqav2": ("validation", {
            "question": "Is it?", "question_id": 1, "image_id": 5, "image": {"bytes": png(9), "path": None},
            "answer_type": "yes/no", "answers": people,
        }),
        "mmlu": ("all/test", {"question": "Q", "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 1}),
        "mmlu-pro": ("test", {**choices, "question_id": 1, "cot_content": ""}),
        "math": ("algebra/test", {"problem": "1+1?", "level": "Level 1", "type": "A", "solution": r"$\boxed{2}$"}),
        "humaneval": ("openai_humaneval/test", PROBLEM),
    }  # fmt: skip
    split, row = rows[name]
    write(folder / f"{split}-00000-of-00001.parquet", [row] * 3)
    if name == "mmlu":
        write(folder / "all" / "dev-00000-of-00001.parquet", [row] * 5)
    if name == "mmlu-pro":
        shot = row | {"cot_content": "A: Let's think step by step. The answer is (B)."}
        write(folder / "validation-00000-of-00001.parquet", [shot] * 5)
    return folder


class Short(running._Asking):
    """Asks for replies of a few tokens."""

    def ask(self, item: Item) -> Any:
        messages, params = super().ask(item)
        return messages, replace(params, max_tokens=min(params.max_tokens or TOKENS, TOKENS))


def task_of(name: str) -> Task:
    if name != "humaneval":
        return task_named(name)
    from tessera.evals.tasks.humaneval import with_runner

    return with_runner("sandbox")


def evaluate(name: str, data: Path, out: Path) -> Summary:
    running._Asking = Short  # type: ignore[misc]  # in this process and in the killed one
    task, judged = task_of(name), task_named(name).judge is not None
    plan = Plan(data=data, model="nano", model_digest="1", judge="nano" if judged else None)
    judge = (lambda: LLM("nano")) if judged else None
    return running.evaluate(task, plan, out, lambda: LLM("nano"), open_judge=judge)


def told(out: Path) -> list[Answer]:
    return [replace(answer, seconds=0.0) for answer in answers_of(out)]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_of_nano_goes_on_to_the_same_answers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "humaneval":
        check("sandbox")
    monkeypatch.setattr(running, "_Asking", running._Asking)  # put back afterwards
    data, out = files(name, tmp_path / "data"), tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, name, str(data), str(out)]
    assert subprocess.run(command, check=False, timeout=200).returncode == -9
    assert (out / FACTS).is_file()
    with Journal.open(out / running.ANSWERS, running.facts_of(out)["identity"]) as journal:
        counts = journal.counts()
    assert counts.left > 0
    again, whole = (evaluate(name, data, each) for each in (out, tmp_path / "whole"))
    assert told(out) == told(tmp_path / "whole")
    assert again.scores == whole.scores
    assert again.count > 1
