"""Metrics of replies: edit distance, equal values, the published data sets' own, and confidence intervals.

All are pure functions of texts and numbers, written from what the data sets' papers say. TRAINING's
cases, printed by the official programs, are their tests.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

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


def anls(reply: str, answers: Sequence[str], *, threshold: float = 0.5) -> float:
    """Return DocVQA's similarity to the nearest answer: 1 - distance / length, or 0 below the threshold."""
    best = max((similarity(reply.lower(), answer.lower()) for answer in answers), default=0.0)
    return best if best >= threshold else 0.0


def anls_as_published(reply: str, answers: Sequence[str]) -> float:
    """Return mistral-evals' variant of ANLS: no threshold, and punctuation at the end does not count."""
    return anls(without_end_marks(reply), [without_end_marks(answer) for answer in answers], threshold=0.0)


def similarity(one: str, other: str) -> float:
    """Return 1 - distance / length of the longer; 1 for two empty texts."""
    longest = max(len(" ".join(one.split())), len(" ".join(other.split())))
    return 1 - edit_distance(one, other) / longest if longest else 1.0


def without_end_marks(text: str) -> str:
    """Remove punctuation and space at the end, but no percent sign."""
    return text.rstrip(string.punctuation.replace("%", "") + string.whitespace)


def relaxed_accuracy(reply: str, answer: str, *, tolerance: float = 0.05) -> bool:
    """Return ChartQA's verdict: a number within 5 % of the answer's, or else the same text in any case.

    A percentage is a hundredth, and nothing but zero itself is near zero.
    """
    given, wanted = plain_number(reply), plain_number(answer)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= tolerance
    return reply.lower() == answer.lower()


def relaxed_accuracy_as_published(reply: str, answers: Sequence[str], *, tolerance: float = 0.05) -> bool:
    """Return mistral-evals' verdict, with which the paper's tables were made.

    Signs of currency, thousands and final punctuation do not count; a percentage may be read either
    way; and a single letter is right if the reply begins with it, so "Cat" is right for C.
    """
    return any(_is_near_as_published(_tidied(reply), _tidied(answer), tolerance) for answer in answers)


def _is_near_as_published(given: str, wanted: str, tolerance: float) -> bool:
    one, other = _number(given.strip().rstrip("%")), _number(wanted.strip().rstrip("%"))
    if one is not None and other is not None:
        hundredths = [1.0, *([0.01] if "%" in (given.strip()[-1:], wanted.strip()[-1:]) else [])]
        pairs = [(one, other)]
        if len(hundredths) == 2:
            pairs += [(one * (0.01 if given.strip().endswith("%") else 1.0), other)]
            pairs += [(one, other * (0.01 if wanted.strip().endswith("%") else 1.0))]
        return any(abs(a - b) / max(abs(b), 1e-10) <= tolerance for a, b in pairs)
    if len(wanted) == 1 and wanted.isalpha() and given:
        return given[0].lower() == wanted.lower()
    return given.lower() == wanted.lower()


def _tidied(text: str) -> str:
    if any(sign.isdigit() for sign in text):
        return without_end_marks(text).replace(",", "").replace("$", "")
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


def plain_number(text: str) -> float | None:
    """Return a text that is a number or a percentage as a number: "50%" is 0.5; None for any other text."""
    text = text.strip()
    number = _number(text.rstrip("%"))
    return number / 100 if number is not None and text.endswith("%") else number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def pass_at_k(count: int, right: int, k: int) -> float:
    """Return the unbiased chance that one of k programs is right, after `right` of `count` were (Chen, 2021)."""
    if count - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / number for number in range(count - right + 1, count + 1))


def bootstrap_interval(
    scores: Sequence[float], clusters: Sequence[str], *, seed: int = 0, rounds: int = 2000
) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by drawing whole clusters (all questions about one image) again."""
    if not scores:
        return 0.0, 1.0
    _, place = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(place, weights=np.asarray(scores, dtype=float))
    sizes = np.bincount(place).astype(float)
    generator = np.random.default_rng(seed)
    means = np.empty(rounds)
    for number in range(rounds):
        drawn = generator.integers(0, len(sums), len(sums))
        means[number] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p: how often chance alone would part the two runs as far (McNemar, 1947)."""
    count, fewer = only_first + only_second, min(only_first, only_second)
    if not count:
        return 1.0
    tail = sum(math.comb(count, number) for number in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << count))
