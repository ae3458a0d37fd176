"""HumanEval: Python functions from their docstrings; a function is right if it passes its tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tessera.evals.rows import Row
from tessera.evals.sandbox import Kind, run_program
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.sampling import SamplingParams

PROMPT = "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{prompt}\n```\n"
PARAMS = SamplingParams(temperature=0.0, max_tokens=1024)
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    facts = {name: row.text(name) for name in ("prompt", "test", "entry_point")}
    return [
        Question(
            id=row.text("task_id"),
            messages=user(PROMPT.format(prompt=facts["prompt"].strip())),
            params=PARAMS,
            answer=row.get("canonical_solution", ""),
            facts=facts,
        )
    ]


def program_of(question: Question, reply: str) -> tuple[str, str | None]:
    """Return the program to run, and the code read in the reply: a fenced block, or all of it."""
    facts = question.facts
    blocks = [block for block in FENCE.findall(reply) if block.strip()]
    named = [block for block in blocks if f"def {facts['entry_point']}" in block]
    code = (named or blocks or [reply])[0]
    is_whole = f"def {facts['entry_point']}" in code
    # A whole function still needs what the problem imports and defines before it; a body completes the problem.
    before = facts["prompt"].rpartition(f"def {facts['entry_point']}")[0] + "\n" if is_whole else facts["prompt"]
    program = f"{before}{code}\n{facts['test']}\ncheck({facts['entry_point']})\n"
    return program, code if blocks or is_whole else None


def with_runner(kind: Kind) -> Task:
    """Return the task with replies run in a sandbox, or without one."""

    def score(question: Question, reply: str) -> Verdict:
        program, code = program_of(question, reply)
        outcome = run_program(program, kind)
        return Verdict({"pass@1": float(outcome.passed)}, code, outcome.reason)

    return replace(TASK, score=score)


TASK = Task(
    name="humaneval",
    title="HumanEval",
    split="test",
    repositories=("openai/openai_humaneval",),
    prompt=PROMPT,
    protocol="one greedy reply, at most 1024 tokens; its code runs with the tests for at most 3 seconds",
    scores={"pass@1": "functions that pass all their tests"},
    questions=_questions,
    paper=72.0,
)
