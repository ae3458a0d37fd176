"""The chosen option in a reply: by MMMU's, MathVista's and MMLU-Pro's rules, and MMMU's numbers in open answers.

Where the official programs choose at random, nothing is chosen here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tessera.evals.metrics import edit_distance

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
THOUSANDS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
# Digits are read once, from the first on: the official expressions take quadratic time on long numbers.
SCIENTIFIC = re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+")
SIMPLE = re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d)(?![,\d])")


def mmmu_choice(reply: str, options: Sequence[str]) -> str | None:
    """Return the letter that MMMU's program finds; None where it would choose at random."""
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    reply = f" {reply} "
    letters = LETTERS[: len(options)]
    for form in ("({})", " {} "):
        if found := [letter for letter in letters if form.format(letter) in reply]:
            return max(found, key=lambda letter: reply.rfind(form.format(letter)))
    if len(reply.split()) > 5:
        lower = reply.lower()
        named = [number for number, option in enumerate(options) if option and option.lower() in lower]
        if named:
            return letters[max(named, key=lambda number: lower.rfind(options[number].lower()))]
    return None


def mmmu_open(reply: str) -> list[str | float]:
    """Return what MMMU's program reads in an open answer: the tails after key words, and all numbers."""
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")
    tails = [tail for number, line in enumerate(lines) if (tail := _tail(line, number == len(lines) - 1))]
    found = tails or [text]
    for tail in list(found):
        found += [match for pattern in (THOUSANDS, SCIENTIFIC, SIMPLE) for match in pattern.findall(tail)]
    return list(dict.fromkeys(value for each in found for value in _normal(each)))


def is_mmmu_open_right(reply: str, answers: Sequence[str]) -> bool:
    """Return True if a right text stands in what was read, or a right number is one of those read."""
    wanted = [value for answer in answers for value in _normal(answer)]
    for given in mmmu_open(reply):
        if isinstance(given, str):
            if any(isinstance(value, str) and value in given for value in wanted):
                return True
        elif given in wanted:
            return True
    return False


def _tail(line: str, is_last: bool) -> str | None:
    """Return the shortest text after a key word; the last line's equals sign is one too."""
    words = (*KEY_WORDS, "=") if is_last else KEY_WORDS
    tails = [line.rsplit(word, 1)[1].strip() for word in words if word in line]
    return next((tail for tail in sorted(tails, key=len)[:1] if tail not in ("", *":,.!?;'")), None)


def _normal(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mathvista_choice(extract: str, options: Sequence[str]) -> str:
    """Return the option that MathVista's program takes: of a letter, or else the nearest one by edit distance."""
    letter = re.search(r"\(([a-zA-Z])\)", extract)
    named = letter[1].upper() if letter else extract.strip()
    if len(named) == 1 and named in LETTERS[: len(options)]:
        return options[LETTERS.index(named)]
    return min(options, key=lambda option: edit_distance(named, option))


def mathvista_value(extract: str, answer_type: str, precision: float | None) -> str | None:
    """Return an extracted answer in the form that MathVista's program compares; None if it is not of its type."""
    try:
        if answer_type == "integer":
            return str(int(float(extract)))
        if answer_type == "float":
            return str(round(float(extract), int(precision or 0)))
    except (ValueError, OverflowError):
        return None
    return extract.strip()


def mmlu_pro_choice(reply: str) -> str | None:
    """Return the letter after the first "answer is", the one rule that all programs share."""
    found = re.search(r"answer is \(?([A-J])\)?", reply)
    return found[1] if found else None


def mmlu_pro_lenient(reply: str) -> str | None:
    """Return the letter by the official program's further rules: after "Answer:", or the last one that stands alone."""
    if (choice := mmlu_pro_choice(reply)) is not None:
        return choice
    found = re.findall(r"[aA]nswer:\s*([A-J])", reply) or re.findall(r"\b([A-J])\b", reply)
    return found[-1] if found else None
