"""The words of texts: as FTS5's `unicode61` divides them, and the whole ones whose parts can be looked up."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

TOKEN = re.compile(r"[^\W_]+")
LEAST, MOST = 3, 40  # characters of a term; trigrams need three
LONG_NUMBER = re.compile(r"\d{4}")
EDGES = ".,:;!?()[]{}<>\"'`*|«»“”„’‘…-–—/\\_=+~"
MAX_TERMS = 20_000  # of one page
# Words between words, which a question has and a page need not; those of a phrase or of nothing else count.
_WORDS = (
    "a an and are as at by did do does for from had has have how in is it of on or that the their to was we were what "
    "when where which who why will with",
    "am auf das dem den der die ein eine einem einen einer für im in ist mit oder und vom von was welche wer wie zu",
    "zum au aux avec dans de des du en est et la le les ou par pour qui sur un une",
    "con del el en es las los para por que una",
)

COMMON = frozenset(word for line in _WORDS for word in line.split())


def tokens(text: str) -> list[str]:
    """Divide a text as FTS5 does: letters and digits, without accents and case."""
    return TOKEN.findall(folded(text))


def folded(text: str) -> str:
    """Fold case and accents and nothing else, since `unicode61` keeps ligatures and the German ß."""
    lower = text.lower()
    if lower.isascii():
        return lower
    bare = (sign for sign in unicodedata.normalize("NFD", lower) if not unicodedata.combining(sign))
    return unicodedata.normalize("NFC", "".join(bare))


def terms(text: str) -> set[str]:
    """The distinct words of a page that may be looked up by parts: with letters, or long numbers.

    Amounts and dates are left out: they are many, and nobody misspells them.
    """
    found: set[str] = set()
    for word in _whole(text):
        if LEAST <= len(word) <= MOST and (not _is_number(word) or LONG_NUMBER.search(word)):
            found.add(word)
            if len(found) >= MAX_TERMS:
                break
    return found


def _whole(text: str) -> Iterator[str]:
    for given in folded(text).split():
        word = given.strip(EDGES)
        yield word
        if not word.isalnum():
            yield from (part for part in TOKEN.findall(word) if len(part) > LEAST)


def _is_number(word: str) -> bool:
    return not any(sign.isalpha() for sign in word)
