"""MathVista: mathematics in pictures, with choices or free numbers."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.errors import UsageError
from tessera.evals.choices import LETTERS, mathvista_choice, mathvista_value
from tessera.evals.explicit import CHOICE_OR_VALUE, LEVEL_NAMES, PARAMS, level_scores
from tessera.evals.levels import final_answer
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict, user


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    options = row.texts("choices") if row.get("choices") else []
    answer = row.text("answer")
    if not answer:
        raise UsageError(f"{row.place} has no answer; those of the test split are not published: use testmini.")
    wanted = LETTERS[options.index(answer)] if answer in options else answer
    column = "decoded_image" if row.get("decoded_image") is not None else "image"
    facts = ("answer_type", "precision")
    return [
        Question(
            id=str(row.get("pid", "")),
            messages=user(row.image(column), f"{row.text('query')}\n{CHOICE_OR_VALUE}"),
            params=PARAMS,
            answer=[wanted],
            groups=_groups(row),
            cluster=str(row.get("image", "")) if isinstance(row.get("image"), str) else "",
            facts={"options": options, "value": answer, **{name: row.get(name) for name in facts}},
        )
    ]


def _groups(row: Row) -> dict[str, str]:
    metadata = row.get("metadata", {})
    found = {"question": str(row.get("question_type", "unknown"))}
    if isinstance(metadata, dict):
        found |= {name: str(metadata[name]) for name in ("task", "context") if metadata.get(name)}
    return found


def _score(question: Question, reply: str) -> Verdict:
    found = final_answer(reply, 2)
    facts = question.facts
    official = False
    if found and facts["options"]:
        official = mathvista_choice(found, facts["options"]) == facts["value"]
    elif found:
        official = mathvista_value(found, str(facts["answer_type"]), facts["precision"]) == facts["value"]
    return Verdict({**level_scores(reply, question.answer), "official": float(official)}, found or None)


TASK = Task(
    name="mathvista",
    title="MathVista",
    split="testmini",
    repositories=("AI4Math/MathVista",),
    prompt=CHOICE_OR_VALUE,
    protocol="explicit prompt after the data set's `query`, greedy, at most 2048 tokens; 5 % off is right",
    scores={
        **LEVEL_NAMES,
        "official": "level 2's answer in MathVista's own normal form, equal to the last digit; no model extracts",
    },
    questions=_questions,
    score=_score,
    paper=58.3,
)
