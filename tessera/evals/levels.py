"""The final answer in a reply that explains itself: the paper's four levels of how leniently it is read.

Level 0 wants the reply to end with `Final Answer: X`. Level 1 also takes a plain `Answer: X` anywhere, level 2 also
one in bold or italics. Level 3 looks for the right answer anywhere in a reply that has none of these, so it is an
upper bound and no score. A level takes whatever the levels before it take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tessera.evals.metrics import relaxed_accuracy_as_published

LEVELS = (0, 1, 2, 3)
BRACKETS = re.compile(r"[*_\[\]()]")
FINAL = "Final Answer:"
ANSWER = "answer:"


def final_answer(reply: str, level: int) -> str:
    """Return the answer that a level finds, without brackets; nothing if it finds none. Level 3 finds level 2's."""
    if level == 0:
        found = _at_the_end(reply)
        return _plain(found) if ANSWER not in found.lower() else ""
    if level == 1:
        return _plain(_after_last(reply))
    bare = re.sub(r"([aA]nswer)\**:\**", r"\1:", reply)
    return BRACKETS.sub("", _after_last(bare)).strip()


def right_by_level(reply: str, answers: Sequence[str]) -> list[bool]:
    """Return, for each level, whether a right answer is read; compared as mistral-evals does."""
    right = [False]
    for level in LEVELS[:3]:
        found = final_answer(reply, level)
        right.append(right[-1] or (found != "" and relaxed_accuracy_as_published(found, answers)))
    has_answer = final_answer(reply, 2) != ""
    return [*right[1:], right[-1] or (not has_answer and is_anywhere(reply, answers))]


def _plain(answer: str) -> str:
    """Return an answer without brackets; one with asterisks is not plain, so it is none."""
    return "" if "*" in answer else BRACKETS.sub("", answer).strip()


def _at_the_end(reply: str) -> str:
    """Return what follows "Final Answer:" in the last line, or is all of it below these words.

    An expression for this takes cubic time on a reply that ends in spaces without end, as models' do.
    """
    before, _, last = reply.rstrip().rpartition("\n")
    return (last if before.rstrip().endswith(FINAL) else last.partition(FINAL)[2]).strip()


def _after_last(reply: str) -> str:
    """Return the first line with text after the last "answer:"."""
    place = reply.lower().rfind(ANSWER)
    lines = reply[place + len(ANSWER) :].splitlines() if place >= 0 else []
    return next((line.strip() for line in lines if line.strip()), "")


def is_anywhere(reply: str, answers: Sequence[str]) -> bool:
    """Return True if a right answer stands anywhere in the reply, as mistral-evals looks for it."""
    return any(_stands_in(reply, answer) for answer in answers)


def _stands_in(reply: str, answer: str) -> bool:
    try:
        number = float(answer)
        whole = int(number) if number == int(number) else number
    except (ValueError, OverflowError):
        forms = (f"is {answer}", f"was {answer}", f" {answer}.", f"are {answer}", f"\n\n{answer}")
        return any(form.lower() in reply for form in forms)
    return f"{whole:,}" in reply or str(whole) in reply
