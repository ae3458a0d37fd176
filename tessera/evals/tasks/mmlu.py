"""MMLU: four choices in 57 subjects, after five examples of the subject."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tessera.errors import UsageError, shown
from tessera.evals.choices import LETTERS
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.sampling import Grammar, SamplingParams

NUM_SHOTS = 5
HEAD = "The following are multiple choice questions (with answers) about {subject}.\n\n"
# The grammar leaves only the four letters, so the greedy one is the likeliest of them: log-likelihood over letters.
PARAMS = SamplingParams(temperature=0.0, max_tokens=2, grammar=Grammar("choice", json.dumps(list("ABCD"))))


def _example(row: Row) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.texts("choices"), strict=False)]
    return "\n".join([row.text("question").strip(), *lines, "Answer:"])


def _letter(row: Row) -> str:
    answer = row["answer"]
    if isinstance(answer, int) and 0 <= answer < 4:
        return LETTERS[answer]
    if isinstance(answer, str) and answer in LETTERS[:4]:
        return answer
    raise UsageError(f"{row.place}: answer must be 0 to 3 or A to D, not {shown(answer)}.")


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    subject = str(row.get("subject", "general"))
    examples = [shot for shot in shots if shot.get("subject", "general") == subject][:NUM_SHOTS]
    text = HEAD.format(subject=subject.replace("_", " "))
    text += "".join(f"{_example(shot)} {_letter(shot)}\n\n" for shot in examples)
    return [
        Question(
            id="",
            messages=user(text + _example(row)),
            params=PARAMS,
            answer=_letter(row),
            groups={"subject": subject},
        )
    ]


def _score(question: Question, reply: str) -> Verdict:
    letter = reply.strip()[:1]
    return Verdict({"accuracy": float(letter == question.answer)}, letter or None)


TASK = Task(
    name="mmlu",
    title="MMLU",
    split="test",
    config="all",
    repositories=("cais/mmlu",),
    prompt=HEAD,
    protocol="five examples of the subject in one turn; the likeliest of the letters A to D is the answer",
    scores={"accuracy": "right letters; micro average over all questions"},
    questions=_questions,
    score=_score,
    shots_split="dev",
    paper=69.2,
)
