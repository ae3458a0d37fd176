"""VQAv2's accuracy: how well an answer agrees with ten people's, after both are put into a normal form."""

from __future__ import annotations

import re
from collections.abc import Sequence

PEOPLE_NEEDED = 3  # of the other nine, for a whole point
ARTICLES = {"a", "an", "the"}
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
MARKS = ';/[]"{}()=+\\_-><@`,?!'
WHOLE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Map each contraction that lacks one apostrophe to the whole one."""
    found = {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
    for word in WHOLE.split():
        for place in (number for number, sign in enumerate(word) if sign == "'"):
            found[word[:place] + word[place + 1 :]] = word
    return found


CONTRACTIONS = _contractions()


def normal_form(text: str) -> str:
    """Return an answer in VQA's normal form: "Two dogs." is "2 dogs"."""
    text = " ".join(text.replace("\t", " ").replace("\n", " ").split(" ")).strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    plain = text
    for mark in MARKS:
        stands_free = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if stands_free or has_thousands else " ")
    plain = re.sub(r"\.(?!\d)", "", plain)
    words = (NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Return the official accuracy: the mean over the people left out of min(1, agreeing others / 3).

    If all people agree, the official program compares without the normal form: then "Yes" is not "yes".
    """
    reply = reply.replace("\n", " ").replace("\t", " ").strip()
    if len(set(answers)) > 1:
        return _agreement(normal_form(reply), [normal_form(answer) for answer in answers])
    return _agreement(reply, answers)


def vqa_accuracy_normalised(reply: str, answers: Sequence[str]) -> float:
    """Return the accuracy with every answer in its normal form, as lmms-eval computes it."""
    return _agreement(normal_form(reply), [normal_form(answer) for answer in answers])


def _agreement(reply: str, answers: Sequence[str]) -> float:
    if not answers:
        return 0.0
    agreeing = sum(answer == reply for answer in answers)
    each = (min(1.0, (agreeing - (answer == reply)) / PEOPLE_NEEDED) for answer in answers)
    return sum(each) / len(answers)
