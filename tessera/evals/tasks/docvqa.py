"""DocVQA: short answers from pages of documents, by how many characters are right (ANLS)."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.evals.metrics import anls, anls_as_published
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.sampling import SamplingParams

PROMPT = "Answer the question using a single word or phrase."
PARAMS = SamplingParams(temperature=0.0, max_tokens=10)


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    kinds = row.get("question_types") or ["unknown"]
    return [
        Question(
            id=str(row.get("questionId", "")),
            messages=user(row.image("image"), f"{row.text('question')}\n{PROMPT}"),
            params=PARAMS,
            answer=row.texts("answers"),
            groups={"type": str(kinds[0] if isinstance(kinds, list) else kinds)},
            cluster=str(row.get("docId", "")),
        )
    ]


def _score(question: Question, reply: str) -> Verdict:
    reply = reply.strip()
    scores = {"ANLS": anls(reply, question.answer), "as published": anls_as_published(reply, question.answer)}
    return Verdict(scores, reply or None)


TASK = Task(
    name="docvqa",
    title="DocVQA",
    split="validation",
    config="DocVQA",
    repositories=("lmms-lab-encoder/DocVQA", "lmms-lab/DocVQA"),
    prompt=PROMPT,
    protocol="one word or phrase, greedy, at most 10 tokens",
    scores={
        "ANLS": "1 - edit distance / length to the nearest answer, 0 below one half",
        "as published": "mistral-evals' ANLS: without that threshold and without punctuation at the end",
    },
    questions=_questions,
    score=_score,
    paper=90.7,
    is_graded=True,
)
