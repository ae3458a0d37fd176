"""MMLU-Pro: up to ten choices, after five worked examples of the category."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.evals.choices import LETTERS, mmlu_pro_choice, mmlu_pro_lenient
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.sampling import SamplingParams

NUM_SHOTS = 5
HEAD = (
    "The following are multiple choice questions (with answers) about {category}. Think step by step and then finish "
    'your answer with "the answer is (X)" where X is the correct letter choice.\n\n'
)
PARAMS = SamplingParams(temperature=0.0, max_tokens=2048, stop=("Question:",))


def _example(row: Row) -> str:
    options = [option for option in row.texts("options") if option != "N/A"]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(["Question:", row.text("question"), "Options:", *lines, ""])


def _worked(row: Row) -> str:
    reasoning = str(row.get("cot_content", "")).replace("A: Let's", "Answer: Let's", 1)
    return f"{_example(row)}{reasoning}\n\n"


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    category = str(row.get("category", "other"))
    examples = [shot for shot in shots if shot.get("category", "other") == category][:NUM_SHOTS]
    text = HEAD.format(category=category) + "".join(map(_worked, examples))
    return [
        Question(
            id=str(row.get("question_id", "")),
            messages=user(f"{text}{_example(row)}Answer: Let's think step by step."),
            params=PARAMS,
            answer=row.text("answer"),
            groups={"category": category},
        )
    ]


def _score(question: Question, reply: str) -> Verdict:
    strict, lenient = mmlu_pro_choice(reply), mmlu_pro_lenient(reply)
    scores = {"accuracy": float(strict == question.answer), "lenient": float(lenient == question.answer)}
    return Verdict(scores, strict)


TASK = Task(
    name="mmlu-pro",
    title="MMLU-Pro",
    split="test",
    repositories=("TIGER-Lab/MMLU-Pro",),
    prompt=HEAD,
    protocol="five worked examples of the category in one turn, reasoning before the answer, greedy",
    scores={
        "accuracy": 'the letter after the first "answer is"',
        "lenient": 'also after "Answer:", or the last letter alone; never at random, as the official program would',
    },
    questions=_questions,
    score=_score,
    shots_split="validation",
)
