"""Answers of a run: what was asked, replied and scored, as the journal keeps them, and their summary."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tessera.chat import Completion
from tessera.errors import TesseraError
from tessera.evals.metrics import bootstrap_interval, wilson_interval
from tessera.evals.task import Question, Task, Verdict

MAX_TEXT = 20_000  # characters of a reply or a question that are kept
REFUSAL = re.compile(
    r"\W*(i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i can not|i am unable|i['’]?m unable|as an ai\b)",
    re.IGNORECASE,
)
# Things that happen to a reply besides being right or wrong; each is counted.
FLAGS = ("unparsed", "cut", "refused", "failed")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question's result. `row` is the data set's, `part` the question's number within it."""

    id: str
    row: int
    part: int = 0
    question: str = ""
    answer: Any = None
    reply: str = ""
    parsed: str | None = None
    note: str = ""
    judgement: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    flags: Sequence[str] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    images: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Answer:
        return cls(**json.loads(text))


def answered(
    task: Task, question: Question, reply: Completion, verdict: Verdict | None, place: tuple[int, int]
) -> Answer:
    """Return the answer of a reply; without a verdict it waits for its judge."""
    timings, usage = reply.timings, reply.usage
    flags = [*(["cut"] if reply.finish_reason == "length" else [])]
    if verdict is not None and verdict.parsed is None:
        flags.append("unparsed")
    if REFUSAL.match(reply.text):
        flags.append("refused")
    return Answer(
        **_asked(question, place),
        reply=reply.text[:MAX_TEXT],
        parsed=None if verdict is None else verdict.parsed,
        note="" if verdict is None else verdict.note,
        scores=dict.fromkeys(task.scores, 0.0) | ({} if verdict is None else dict(verdict.scores)),
        flags=flags,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        image_tokens=usage.image_tokens,
        seconds=round(timings.first_token_s + timings.decode_s, 4),
    )


def failed(
    task: Task, question: Question | None, error: TesseraError, place: tuple[int, int], reply: str = ""
) -> Answer:
    """Return the answer of a question that got no reply, or one that could not be scored; it has no points."""
    asked = (
        {"id": f"row {place[0] + 1}", "row": place[0], "part": place[1]}
        if question is None
        else _asked(question, place)
    )
    note = f"{error.code or type(error).__name__}: {error}"
    scores = dict.fromkeys(task.scores, 0.0)
    return Answer(**asked, reply=reply[:MAX_TEXT], note=note, scores=scores, flags=["failed"])


def _asked(question: Question, place: tuple[int, int]) -> dict[str, Any]:
    row, part = place
    texts = [part for message in question.messages for part in message.content if isinstance(part, str)]
    return {
        "id": question.id or (f"row {row + 1}" + (f", turn {part + 1}" if part else "")),
        "row": row,
        "part": part,
        "question": "\n".join(texts)[-MAX_TEXT:],
        "answer": question.answer,
        "groups": dict(question.groups),
        "cluster": question.cluster or f"row {row}",
        "images": sum(len(message.images) for message in question.messages),
    }


@dataclass(frozen=True)
class Score:
    """A mean with its 95 % interval, in the task's scale."""

    name: str
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Summary:
    """A run in numbers: the task's scores over all questions, the main score by group, and what happened to replies."""

    scores: Sequence[Score]
    groups: Mapping[str, Sequence[Score]]
    flags: Mapping[str, int]
    count: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def summarise(task: Task, answers: Iterable[Answer]) -> Summary:
    """Sum up a run; questions that failed count as wrong, and are counted."""
    known = list(answers)
    grouped: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
    for answer in known:
        for name, value in answer.groups.items():
            grouped[name][value].append(answer)
    flags = Counter(flag for answer in known for flag in answer.flags)
    return Summary(
        [mean_score(task, name, known) for name in task.scores],
        {
            name: [mean_score(task, task.main, members, value) for value, members in sorted(values.items())]
            for name, values in grouped.items()
        },
        {flag: flags[flag] for flag in FLAGS},
        len(known),
        sum(answer.prompt_tokens for answer in known),
        sum(answer.completion_tokens for answer in known),
        sum(answer.seconds for answer in known),
    )


def mean_score(task: Task, score: str, answers: Sequence[Answer], name: str | None = None) -> Score:
    """Return a score's mean: with Wilson's interval for right or wrong, else by the bootstrap over clusters."""
    points = [answer.scores.get(score, 0.0) for answer in answers]
    mean = sum(points) / len(points) if points else 0.0
    clusters = [answer.cluster for answer in answers]
    if task.is_graded and len(answers) > 1 and len(set(clusters)) == 1:
        low, high = 0.0, task.best  # one image says nothing about others
    elif task.is_graded and len(set(points)) > 1:
        low, high = bootstrap_interval(points, clusters)
    else:
        # Equal points leave the bootstrap nothing to draw; as so many right or wrong ones they have an interval.
        low, high = (task.best * end for end in wilson_interval(round(sum(points) / task.best), len(points)))
    return Score(name or score, mean * task.scale, low * task.scale, high * task.scale, len(points))


def is_wrong(task: Task, answer: Answer) -> bool:
    """Return True if an answer lost points; a judged one, if it got less than six tenths of them."""
    return answer.scores.get(task.main, 0.0) < task.best * (0.6 if task.judge else 1.0)
