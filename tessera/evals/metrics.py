"""Metrics of replies: edit distance, equal values, and the confidence interval of a proportion."""

from __future__ import annotations

import json
import math
import re

from tessera.errors import MissingExtraError

CONFIDENCE = 1.96  # standard deviations: 95 %
NUMBER = re.compile(r"-?\d[\d,' ]*(?:\.\d+)?|-?\.\d+")


def is_same_text(reply: str, answer: str) -> bool:
    """Return True if the words are identical; line breaks may differ."""
    return reply.split() == answer.split()


def is_same_json(reply: str, answer: str) -> bool:
    """Return True if both are JSON with equal values."""
    try:
        return bool(json.loads(reply) == json.loads(answer))
    except ValueError:
        return False


def is_near(reply: str, answer: str, tolerance: float) -> bool:
    """Return True if the numbers in two short texts differ by at most `tolerance` times the answer's."""
    one, other = number_in(reply), number_in(answer)
    return one is not None and other is not None and abs(one - other) <= tolerance * abs(other) + 1e-9


def number_in(text: str) -> float | None:
    """Return the number in a short text: "$1,200" is 1200; None if there is none or more than one."""
    found = NUMBER.findall(text)
    return float(re.sub(r"[,' ]", "", found[0])) if len(found) == 1 else None


def edit_distance(reply: str, answer: str) -> int:
    """Characters to insert, delete or replace (Levenshtein), with white space as single spaces."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise MissingExtraError("measuring needs rapidfuzz; install it with: pip install 'tessera[nano]'") from error
    return Levenshtein.distance(" ".join(reply.split()), " ".join(answer.split()))


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927); (0, 1) without samples."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, CONFIDENCE**2
    middle = share + square / (2 * count)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    low, high = ((middle + sign * half) / (1 + square / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
