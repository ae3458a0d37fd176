"""ChartQA: questions about charts, half of them written by people; numbers may be 5 % off."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tessera.evals.explicit import LEVEL_NAMES, PARAMS, STEPS, level_scores
from tessera.evals.levels import final_answer
from tessera.evals.metrics import relaxed_accuracy
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.messages import Image

PROMPT = (
    STEPS
    + """where <answer> follows the following instructions:
- <answer> should should be a single phrase or number.
- <answer> should not paraphrase or reformat the text in the image.
- If <answer> is a ratio, it should be a decimal value like 0.25 instead of 1:4.
- If the question is a Yes/No question, <answer> should be Yes/No.
- If <answer> is a number, it should not contain any units.
- If <answer> is a percentage, it should include a % sign.
- If <answer> is an entity, it should include the full label from the graph.
IMPORTANT: Remember, to end your answer with Final Answer: <answer>."""
)
KINDS = {"human_test": "human", "augmented_test": "augmented", "0": "human", "1": "augmented"}


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    question = row.text("question" if "question" in row.values else "query")
    kind = row.get("type", row.get("human_or_machine"))
    image = row.image("image")
    return [
        Question(
            id=str(row.get("id", "")),
            messages=user(image, f"{question}\n{PROMPT}"),
            params=PARAMS,
            answer=row.texts("answer" if "answer" in row.values else "label"),
            groups={} if kind is None else {"questions by": KINDS.get(str(kind), str(kind))},
            cluster=_digest(image),
        )
    ]


def _digest(image: Image) -> str:
    source = image.source if isinstance(image.source, bytes) else str(image.source).encode()
    return hashlib.sha256(source).hexdigest()[:16]


def _score(question: Question, reply: str) -> Verdict:
    found = final_answer(reply, 2)
    relaxed = any(relaxed_accuracy(found, answer) for answer in question.answer) if found else False
    return Verdict({**level_scores(reply, question.answer), "relaxed accuracy": float(relaxed)}, found or None)


TASK = Task(
    name="chartqa",
    title="ChartQA",
    split="test",
    repositories=("lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA", "HuggingFaceM4/ChartQA"),
    prompt=PROMPT,
    protocol="explicit prompt, reasoning before the answer, greedy, at most 2048 tokens; 5 % off is right",
    scores={
        **LEVEL_NAMES,
        "relaxed accuracy": "level 2's answer by the data set's own measure: no signs or thousands are forgiven",
    },
    questions=_questions,
    score=_score,
    paper=81.8,
)
