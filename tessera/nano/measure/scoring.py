"""When an answer counts as right, how far a transcription is off, and how sure a share of few trials is.

Right is exact: to the letter, JSON to the value, a number read from an axis within its tolerance.
White space does not count in a transcription, where the reader may break lines otherwise.
"""

from __future__ import annotations

import json
import math
import re

from tessera.errors import UsageError
from tessera.nano.measure.trial import Trial

CONFIDENCE = 1.96  # standard deviations: 95 %
NUMBER = re.compile(r"-?\d[\d,' ]*(?:\.\d+)?|-?\.\d+")


def is_right(reply: str, trial: Trial) -> bool:
    wanted = trial.answer
    if trial.skill == "transcribe":
        return reply.split() == wanted.split()
    if reply.strip() == wanted:
        return True
    if trial.tolerance:
        return _is_near(reply, wanted, trial.tolerance)
    return wanted[:1] in ("{", "[") and _same_json(reply, wanted)


def _same_json(reply: str, wanted: str) -> bool:
    try:
        return bool(json.loads(reply) == json.loads(wanted))
    except ValueError:
        return False


def _is_near(reply: str, wanted: str, tolerance: float) -> bool:
    one, other = _number(reply), _number(wanted)
    return one is not None and other is not None and abs(one - other) <= tolerance * abs(other) + 1e-9


def _number(text: str) -> float | None:
    """The number in a short answer: "$1,200" is 1200; None where there is none, or more than one."""
    found = NUMBER.findall(text)
    return float(re.sub(r"[,' ]", "", found[0])) if len(found) == 1 else None


def edits(reply: str, wanted: str) -> int:
    """Characters to insert, delete or replace, white space as single spaces."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise UsageError("measuring needs rapidfuzz; install it with: pip install 'tessera[nano]'") from error
    return Levenshtein.distance(" ".join(reply.split()), " ".join(wanted.split()))


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, CONFIDENCE**2
    middle = share + square / (2 * count)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    low, high = ((middle + sign * half) / (1 + square / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
