"""MM-MT-Bench: open questions about images over several turns, which another model judges from 1 to 10."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera.errors import UsageError
from tessera.evals.rows import Row
from tessera.evals.task import Judge, Question, Shots, Task, Verdict
from tessera.messages import Image, Message, parse_content
from tessera.sampling import SamplingParams

PARAMS = SamplingParams(temperature=0.0, max_tokens=4096)
JUDGE_PARAMS = SamplingParams(temperature=0.0, max_tokens=2048)
JUDGE_PROMPT = (
    "Please act as an impartial judge and evaluate the quality of the response provided by an AI assistant to the most "
    "recent question given the previous conversation as context. Your evaluation should consider correctness and "
    "helpfulness. You will be given a reference answer and the assistant's answer. Begin your evaluation by comparing "
    "the assistant's answer with the reference answer. Identify and correct any mistakes. Be as objective as possible. "
    "After providing your explanation, you must rate the response on a scale of 1 to 10 by strictly following this "
    'format: "[[rating]]", for example: "Rating: [[5]]".\n\n'
)
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")


def _turns(row: Row) -> list[Any]:
    text = row.text("conversation")
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        turns = None
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        raise UsageError(f"{row.place}: conversation must be a JSON list of turns, the user's and the reference's.")
    return turns


def _questions_in(row: Row) -> int:
    return len(_turns(row)) // 2


def _questions(row: Row, shots: Shots) -> Sequence[Question]:
    messages = [_message(turn, row, number) for number, turn in enumerate(_turns(row))]
    return [
        Question(
            id="",
            messages=tuple(messages[: 2 * turn + 1]),
            params=PARAMS,
            answer="".join(part for part in messages[2 * turn + 1].content if isinstance(part, str)),
            groups={"category": str(row.get("category", "unknown")), "turn": str(turn + 1)},
            cluster=Path(row.place).name,
        )
        for turn in range(len(messages) // 2)
    ]


def _message(turn: Any, row: Row, number: int) -> Message:
    role = ("user", "assistant")[number % 2]
    content = turn.get("content")
    if turn.get("role") != role or not isinstance(content, str | list):
        raise UsageError(f"{row.place}: turn {number + 1} must be the {role}'s, with content.")
    if isinstance(content, str):
        return Message(role, (content,))  # type: ignore[arg-type]
    parts: list[str | Image] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image":
            parts.append(row.image("image"))
        else:
            parts += parse_content([part], f"{row.place}, turn {number + 1}")
    return Message(role, tuple(parts))  # type: ignore[arg-type]


def judge_conversation(question: Question, reply: str) -> Sequence[Message]:
    """Return what the judge sees: every question with its reference answer, images in place, then the reply."""
    parts: list[str | Image] = ["<|The Start of Conversation with User|>\n\n"]
    asked = [message for message in question.messages if message.role == "user"]
    known = [message.content for message in question.messages if message.role == "assistant"]
    for message, reference in zip(asked, [*known, (question.answer,)], strict=True):
        parts += ["### User:\n", *message.content, "\n\n### Reference answer:\n", *reference, "\n\n"]
    parts.append(f"\n\n### Assistant's answer:\n{reply}\n\n<|The End of Conversation with User|>\n\n\n")
    return [Message("system", (JUDGE_PROMPT,)), Message("user", tuple(_joined(parts)))]


def _joined(parts: Sequence[str | Image]) -> list[str | Image]:
    """Join texts that follow each other."""
    joined: list[str | Image] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def rating(judgement: str) -> Verdict:
    """Read the first rating; one outside 1 to 10, or none, is no point and counted as unparsed."""
    found = RATING.search(judgement)
    if found is None or not 1 <= float(found[1]) <= 10:
        return Verdict({"rating": 0.0}, None)
    return Verdict({"rating": float(found[1])}, found[1])


TASK = Task(
    name="mm-mt-bench",
    title="MM-MT-Bench",
    split="eval",
    repositories=("mistralai/MM-MT-Bench",),
    prompt=JUDGE_PROMPT,
    protocol="every turn asked after the reference answers before it, greedy, at most 4096 tokens; judged by a model",
    scores={"rating": "the mean over turns of the judge's 1 to 10; a reply without a rating counts 0"},
    questions=_questions,
    judge=Judge(judge_conversation, JUDGE_PARAMS, rating),
    paper=6.05,
    is_graded=True,
    best=10.0,
    scale=1.0,
    questions_in=_questions_in,
)
