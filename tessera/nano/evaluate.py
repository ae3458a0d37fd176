"""Nano's held-out table: exact answers by skill, on seeds, fonts and layouts it never trained on.

An answer is exact when it equals the drawn one, letter for letter; a JSON answer when it parses to
the same value. Transcriptions also get a character error rate (Levenshtein distance over length).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.chat import ChatModel, Image, Message, SamplingParams
from tessera.nano.synthesize import TRAINED, UNSEEN_FONTS, UNSEEN_LAYOUTS, Sample, draw

STYLES = {"trained": TRAINED, "unseen fonts": UNSEEN_FONTS, "unseen layouts": UNSEEN_LAYOUTS}
SKILLS = ("transcribe", "chart", "receipt")
BATCH = 32
LONGEST_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Score:
    """One cell of the table; the error rate is of characters, over all its samples."""

    skill: str
    style: str
    samples: int
    exact: int
    character_error_rate: float


def evaluate(model: ChatModel, samples: int = 200, difficulty: float = 1.0) -> Iterator[Score]:
    """Score every skill in every style on `samples` pictures each, drawn from held-out seeds."""
    for style_number, (style_name, style) in enumerate(STYLES.items()):
        for skill_number, skill in enumerate(SKILLS):
            first = (style_number * len(SKILLS) + skill_number) * samples  # below the recipe's first seed
            drawn = [draw(first + index, difficulty, style, skill) for index in range(samples)]
            answers = ask(model, drawn)
            exact = sum(is_exact(answer, sample.answer) for answer, sample in zip(answers, drawn, strict=True))
            errors = sum(edit_distance(answer, sample.answer) for answer, sample in zip(answers, drawn, strict=True))
            characters = sum(len(sample.answer) for sample in drawn)
            yield Score(skill, style_name, samples, exact, errors / characters)


def ask(model: ChatModel, samples: Sequence[Sample]) -> list[str]:
    """The model's greedy answers, in order."""
    params = SamplingParams(max_tokens=LONGEST_ANSWER_TOKENS)
    conversations = [[Message("user", (Image(sample.image), sample.question))] for sample in samples]
    answers: list[str] = []
    for start in range(0, len(conversations), BATCH):
        answers += [reply.text for reply in model.batch(conversations[start : start + BATCH], params)]
    return answers


def is_exact(answer: str, wanted: str) -> bool:
    if answer.strip() == wanted.strip():
        return True
    try:
        return wanted.startswith("{") and bool(json.loads(answer) == json.loads(wanted))
    except ValueError:
        return False


def edit_distance(answer: str, wanted: str) -> int:
    """Levenshtein distance; edit_distance("cat", "cart") == 1."""
    previous = list(range(len(wanted) + 1))
    for row, character in enumerate(answer, 1):
        current = [row]
        for column, other in enumerate(wanted, 1):
            substitution = previous[column - 1] + (character != other)
            current.append(min(previous[column] + 1, current[-1] + 1, substitution))
        previous = current
    return previous[-1]


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table, a row a skill, a column a style."""
    cell = {
        (s.skill, s.style): f"{s.exact / s.samples:.1%} (CER {s.character_error_rate:.1%}, n={s.samples})"
        for s in scores
    }
    lines = ["| skill | " + " | ".join(STYLES) + " |", "|" + " --- |" * (len(STYLES) + 1)]
    for skill in SKILLS:
        lines.append(f"| {skill} | " + " | ".join(cell.get((skill, style), "-") for style in STYLES) + " |")
    return "\n".join(lines)
