"""VQAv2: short answers about photographs, each compared with ten people's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.errors import UsageError
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user
from tessera.evals.vqa import vqa_accuracy, vqa_accuracy_normalised
from tessera.sampling import SamplingParams

PROMPT = """- Answer the question using a single word, number, or short phrase. Use as few words as possible.
- If the answer is a number, report it as a number, i.e. 2, not Two, and only include the number without any unit.
- If the question is Yes/No, answer with Yes/No, and nothing else (no likely, unknown, etc.).
- You cannot answer that the question is unanswerable. You must answer."""
PARAMS = SamplingParams(temperature=0.0, max_tokens=10)


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    given = row["answers"]
    listed = given if isinstance(given, list) else []
    answers = [each.get("answer") if isinstance(each, Mapping) else each for each in listed]
    if not answers or None in answers:
        raise UsageError(f"{row.place}: answers must be a list of ten people's; is this the test split, without them?")
    return [
        Question(
            id=str(row.get("question_id", "")),
            messages=user(row.image("image"), f"{row.text('question')}\n{PROMPT}"),
            params=PARAMS,
            answer=[str(each) for each in answers],
            groups={"answer": str(row.get("answer_type", "unknown"))},
            cluster=str(row.get("image_id", "")),
        )
    ]


def _score(question: Question, reply: str) -> Verdict:
    reply = reply.strip()
    scores = {
        "official": vqa_accuracy(reply, question.answer),
        "normalised": vqa_accuracy_normalised(reply, question.answer),
    }
    return Verdict(scores, reply or None)


TASK = Task(
    name="vqav2",
    title="VQAv2",
    split="validation",
    repositories=("lmms-lab-encoder/VQAv2", "lmms-lab/VQAv2"),
    prompt=PROMPT,
    protocol="rules for short answers, greedy, at most 10 tokens",
    scores={
        "official": "agreement with ten people; where all ten agree, every letter must be the same",
        "normalised": "the same with answers always in their normal form, as lmms-eval does",
    },
    questions=_questions,
    score=_score,
    paper=78.6,
    is_graded=True,
)
