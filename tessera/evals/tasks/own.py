"""A task of one's own: JSON lines or CSV with questions, answers, images and the scorer to use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.conversation import MAX_JSON_DEPTH, json_depth
from tessera.errors import UsageError, shown
from tessera.evals.metrics import anls, is_near, is_same_text, number_in
from tessera.evals.rows import Row
from tessera.evals.task import Question, Shots, Task, Verdict
from tessera.matching import check_patterns, matches
from tessera.messages import Image, Message, parse_messages
from tessera.sampling import SamplingParams

Scorer = Callable[[str, Sequence[Any], float], tuple[float, str | None]]


def _exact(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    reply = reply.strip().removesuffix(".")
    return float(any(is_same_text(reply.lower(), str(each).lower()) for each in answers)), reply or None


def _contains(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    text = " ".join(reply.lower().split())
    found = [str(each) for each in answers if " ".join(str(each).lower().split()) in text]
    return float(bool(found)), found[0] if found else None


def _number(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    value = number_in(reply)
    is_right = any(is_near(reply, str(each), tolerance) for each in answers)
    return float(is_right), None if value is None else f"{value:g}"


def _anls(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    return anls(reply.strip(), [str(each) for each in answers]), reply.strip() or None


def _regex(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    (found,) = matches([str(each) for each in answers], [reply])
    return (0.0, None) if found is None else (1.0, found[1])


def _json(reply: str, answers: Sequence[Any], tolerance: float) -> tuple[float, str | None]:
    """Score the share of the answer's fields that the reply has with equal values."""
    value = _object_in(reply)
    if value is None:
        return 0.0, None
    best = max(_equal_share(value, _object_in(str(each)) if isinstance(each, str) else each) for each in answers)
    return best, json.dumps(value, ensure_ascii=False)


def _object_in(text: str) -> Any:
    """Return the JSON object in a text, which may have words or a fence around it; None without one."""
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    return value if json_depth(value) <= MAX_JSON_DEPTH else None


def _equal_share(given: Any, wanted: Any) -> float:
    fields = _leaves(wanted)
    found = _leaves(given)
    right = sum(name in found and _is_equal(found[name], value) for name, value in fields.items())
    return right / len(fields) if fields else float(given == wanted)


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Return every value of a nested object by its path."""
    if isinstance(value, Mapping):
        return {path: leaf for key, each in value.items() for path, leaf in _leaves(each, f"{name}.{key}").items()}
    if isinstance(value, list):
        return {path: leaf for key, each in enumerate(value) for path, leaf in _leaves(each, f"{name}[{key}]").items()}
    return {name: value}


def _is_equal(given: Any, wanted: Any) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return is_same_text(given.lower(), wanted.lower())
    given, wanted = _as_number(given), _as_number(wanted)
    return bool(given == wanted) and isinstance(given, bool) == isinstance(wanted, bool)


def _as_number(value: Any) -> Any:
    """The number that a text is, since models copy "3.70" as a text or as a number; any other value is itself."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


SCORERS: dict[str, tuple[Scorer, str]] = {
    "exact": (_exact, "the same words, in any case"),
    "contains": (_contains, "the answer stands in the reply, in any case"),
    "number": (_number, "the reply's only number is within the tolerance"),
    "anls": (_anls, "1 - edit distance / length, 0 below one half"),
    "json": (_json, "the share of the answer's fields with equal values"),
    "regex": (_regex, "the answer is a regular expression that is found in the reply"),
}


def own_task(path: Path, scorer: str, tolerance: float, max_tokens: int | None, system: str | None) -> Task:
    """Return the task of a file; a row's own `scorer`, `tolerance` and `max_tokens` come before these."""
    _check_scorer(scorer, "--scorer")

    def questions(row: Row, shots: Shots) -> Sequence[Question]:
        kind, answers = str(row.get("scorer", scorer)), _answers(row)
        _check_scorer(kind, f"{row.place}: scorer")
        _check_answers(kind, answers, row)
        messages = _messages(row, system)
        images = [image for message in messages for image in message.images]
        return [
            Question(
                id=str(row.get("id", "")),
                messages=messages,
                params=SamplingParams(max_tokens=_max_tokens(row, max_tokens)),
                answer=answers,
                groups=_groups(row),
                cluster=str(images[0].source) if images and isinstance(images[0].source, str | Path) else "",
                facts={"scorer": kind, "tolerance": _tolerance(row, tolerance)},
            )
        ]

    def score(question: Question, reply: str) -> Verdict:
        points, parsed = SCORERS[question.facts["scorer"]][0](reply, question.answer, question.facts["tolerance"])
        return Verdict({"score": points}, parsed)

    return Task(
        name=path.stem,
        title=path.name,
        split="test",
        repositories=(),
        prompt=json.dumps([scorer, tolerance, max_tokens, system]),
        protocol=f"the file's own questions, greedy; scorer {scorer} unless a row names another",
        scores={"score": SCORERS[scorer][1]},
        questions=questions,
        score=score,
        is_graded=True,
        options={
            "path": str(path.absolute()), "scorer": scorer, "tolerance": tolerance, "max_tokens": max_tokens,
            "system": system,
        },
    )  # fmt: skip


def _check_scorer(name: str, where: str) -> None:
    if name not in SCORERS:
        raise UsageError(f"{where} is {shown(name)}; it must be one of {', '.join(SCORERS)}.")


def _is_object(answer: Any) -> bool:
    return isinstance(_object_in(answer) if isinstance(answer, str) else answer, Mapping)


# What an answer must be for a scorer: in words, and the check.
WANTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "contains": ("a text that is not empty", lambda answer: bool(str(answer).strip())),
    "regex": ("a text that is not empty", lambda answer: bool(str(answer))),
    "number": ("one number", lambda answer: number_in(str(answer)) is not None),
    "json": ("a JSON object", _is_object),
}


def _check_answers(kind: str, answers: Sequence[Any], row: Row) -> None:
    """Raise UsageError for an answer that every reply has, or none can have."""
    if kind == "regex":
        try:
            check_patterns([str(answer) for answer in answers])
        except UsageError as error:
            raise UsageError(f"{row.place}: {error}") from error
    for answer in answers:
        if kind in WANTED and not WANTED[kind][1](answer):
            raise UsageError(
                f"{row.place}: the answer {shown(answer)} must be {WANTED[kind][0]} for the scorer {kind}."
            )


def _tolerance(row: Row, tolerance: float) -> float:
    given = row.get("tolerance", tolerance)
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < math.inf:
        raise UsageError(f"{row.place}: tolerance is {shown(given)} and must be a number from 0, such as 0.05.")
    return value


def _max_tokens(row: Row, max_tokens: int | None) -> int | None:
    given = row.get("max_tokens", max_tokens)
    if given in (None, "", 0):
        return None
    try:
        return int(str(given))  # 4.5 is refused too
    except ValueError:
        raise UsageError(f"{row.place}: max_tokens is {shown(given)} and must be a whole number.") from None


def _answers(row: Row) -> list[Any]:
    value = row["answers" if "answers" in row.values else "answer"]
    answers = value if isinstance(value, list) else [value]
    if not answers or any(each is None for each in answers):
        raise UsageError(f"{row.place}: answer must be a text, a number, an object or a list of them.")
    return answers


def _images(row: Row) -> list[Image]:
    given = row.get("images", row.get("image", []))
    return [row.image_of(each, "image") for each in (given if isinstance(given, list) else [given]) if each]


def _messages(row: Row, system: str | None) -> tuple[Message, ...]:
    given = row.get("messages")
    if given is None and row.get("system"):
        system = row.text("system")
    first = [Message("system", (system,))] if system else []
    if given is None:
        return (*first, Message("user", (*_images(row), row.text("question"))))
    if _images(row):
        raise UsageError(f"{row.place}: images beside messages would not be shown; put them into the messages.")
    if not isinstance(given, list) or not given:
        raise UsageError(f"{row.place}: messages must be a list of messages, not {shown(given)}.")
    messages = [
        replace(message, content=tuple(_beside(part, row) for part in message.content))
        for message in parse_messages(given)
    ]
    return (*(first if messages[0].role != "system" else ()), *messages)


def _beside(part: str | Image, row: Row) -> str | Image:
    """Return a part of a message whose image's path is beside the row's file."""
    if not isinstance(part, Image):
        return part
    return replace(part, source=row.image_of(part.source, "messages").source)


def _groups(row: Row) -> dict[str, str]:
    found = {name: str(row.get(name)) for name in ("category", "subject", "skill", "group", "type") if row.get(name)}
    given = row.get("groups", {})
    return found | ({str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {})
