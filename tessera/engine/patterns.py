"""The texts that a regular expression matches, where they are few: told by reading it once, without running it.

Only plain forms are understood, and of any other nothing is claimed.
"""

from __future__ import annotations

import re
from itertools import product

MAX_WORDS = 64
MAX_CHARACTERS = 1024  # of all of them, so that reading stays cheap whatever the expression
PLAIN = re.compile(r"[^\\^$.|?*+()\[\]{}]")
ESCAPED = re.compile(r"\\([^a-zA-Z0-9])")

Words = frozenset[str]


class _UnclearError(Exception):
    """The expression is none of the plain forms, or has too many words."""


def finite_language(pattern: str) -> list[str] | None:
    """All texts that match, if they are few: of anchored texts, alternatives, sets of characters; None of others."""
    words: Words = frozenset()
    place = 0
    try:
        while True:
            if pattern[place : place + 1] != "^":
                return None
            more, place = _sequence(pattern, place + 1)
            words = _few(words | more)
            if pattern[place:] == "$":
                return sorted(words)
            if pattern[place : place + 2] != "$|":
                return None
            place += 2
    except (_UnclearError, RecursionError):
        return None


def _alternatives(pattern: str, place: int) -> tuple[Words, int]:
    words, place = _sequence(pattern, place)
    while pattern[place : place + 1] == "|":
        more, place = _sequence(pattern, place + 1)
        words = _few(words | more)
    return words, place


def _sequence(pattern: str, place: int) -> tuple[Words, int]:
    words = frozenset({""})
    while place < len(pattern) and pattern[place] not in "|)$":
        following, place = _item(pattern, place)
        if pattern[place : place + 1] == "?":
            following, place = following | {""}, place + 1
        elif pattern[place : place + 1] in ("*", "+", "{"):
            raise _UnclearError
        words = _joined(words, following)
    return words, place


def _item(pattern: str, place: int) -> tuple[Words, int]:
    if escaped := ESCAPED.match(pattern, place):
        return frozenset({escaped[1]}), escaped.end()
    if plain := PLAIN.match(pattern, place):
        return frozenset({plain[0]}), plain.end()
    if pattern[place] == "(":
        inside = place + 3 if pattern.startswith("(?:", place) else place + 1
        words, end = _alternatives(pattern, inside)
        if pattern[end : end + 1] != ")":
            raise _UnclearError
        return words, end + 1
    if pattern[place] == "[":
        return _set(pattern, place + 1)
    raise _UnclearError


def _set(pattern: str, place: int) -> tuple[Words, int]:
    """The characters of a set: single ones and ranges."""
    signs: set[str] = set()
    while (sign := pattern[place : place + 1]) != "]":
        first, place = _item(pattern, place) if sign == "\\" else (frozenset({sign}), place + 1)
        if sign in ("", "[", "^", "&", "~", "-"):
            raise _UnclearError
        low = high = next(iter(first))
        if pattern[place : place + 1] == "-":
            high, place = pattern[place + 1 : place + 2], place + 2
            if not high or high in "]\\[" or not low <= high or ord(high) - ord(low) > MAX_WORDS:
                raise _UnclearError
        signs |= set(map(chr, range(ord(low), ord(high) + 1)))
        _few(frozenset(signs))
    return frozenset(signs), place + 1


def _joined(words: Words, following: Words) -> Words:
    if len(words) * len(following) > MAX_WORDS:
        raise _UnclearError
    return _few(frozenset(map("".join, product(words, following))))


def _few(words: Words) -> Words:
    if len(words) > MAX_WORDS or sum(map(len, words)) > MAX_CHARACTERS:
        raise _UnclearError
    return words
