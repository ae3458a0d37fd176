"""MMMU: college questions with pictures inside the text, most of them multiple choice."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from tessera.errors import UsageError, shown
from tessera.evals.choices import LETTERS, is_mmmu_open_right, mmmu_choice
from tessera.evals.explicit import CHOICE_OR_VALUE, LEVEL_NAMES, PARAMS, level_scores
from tessera.evals.levels import final_answer
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.messages import Image

PLACE = re.compile(r"(<image \d+>)")


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    options = _listed(row, "options") if row.get("question_type", "multiple-choice") == "multiple-choice" else []
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    content = _content(row, "\n".join([row.text("question"), *lines]))
    answer = row.text("answer")
    if answer == "?":
        raise UsageError(f"{row.place} has no answer; those of the test split are not published: use validation.")
    name = str(row.get("id", ""))
    subject = re.sub(r"\A[a-z]+_|_\d+\Z", "", name)
    return [
        Question(
            id=name,
            messages=user(*content),
            params=PARAMS,
            answer=[answer] if options or "[" not in answer else _listed(row, "answer"),
            groups={"subject": subject, "difficulty": str(row.get("topic_difficulty", "unknown"))},
            facts={"options": options},
        )
    ]


def _content(row: Row, text: str) -> list[str | Image]:
    """Return the text with the images in their places, and the prompt after it."""
    parts: list[str | Image] = []
    for part in PLACE.split(text):
        if PLACE.fullmatch(part):
            parts.append(row.image(f"image_{part[7:-1]}"))
        elif part.strip():
            parts.append(part)
    if parts and isinstance(parts[-1], str):
        return [*parts[:-1], f"{parts[-1]}\n{CHOICE_OR_VALUE}"]
    return [*parts, CHOICE_OR_VALUE]


def _listed(row: Row, column: str) -> list[str]:
    """Read a Python list that is written as a text."""
    value: Any = row[column]
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list):
        raise UsageError(f"{row.place}: {column} must be a list written as a text, not {shown(row[column])}.")
    return [str(each) for each in value]


def _score(question: Question, reply: str) -> Verdict:
    options = question.facts["options"]
    read = mmmu_choice(reply, options) if options else None
    official = read == question.answer[0] if options else is_mmmu_open_right(reply, question.answer)
    scores = {**level_scores(reply, question.answer), "official": float(official)}
    return Verdict(scores, final_answer(reply, 2) or None)


TASK = Task(
    name="mmmu",
    title="MMMU",
    split="validation",
    repositories=("lmms-lab-encoder/MMMU", "lmms-lab/MMMU", "MMMU/MMMU"),
    prompt=CHOICE_OR_VALUE,
    protocol="explicit prompt, reasoning before the answer, no examples, greedy, at most 2048 tokens",
    scores={
        **LEVEL_NAMES,
        "official": "MMMU's own reading of the whole reply; where it would choose at random, no point",
    },
    questions=_questions,
    score=_score,
    paper=52.0,
)
