"""When an answer counts as right: to the letter, JSON to the value, a number off an axis within its tolerance."""

from __future__ import annotations

from tessera.evals.metrics import is_near, is_same_json, is_same_text
from tessera.nano.measure.trial import Trial


def is_right(reply: str, trial: Trial) -> bool:
    answer = trial.answer
    if trial.skill == "transcribe":
        return is_same_text(reply, answer)
    if reply.strip() == answer:
        return True
    if trial.tolerance:
        return is_near(reply, answer, trial.tolerance)
    return answer[:1] in ("{", "[") and is_same_json(reply, answer)
