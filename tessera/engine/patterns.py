"""Lists the texts that a regular expression matches, if they are few, by reading it once without running it.

Only the forms used for names are understood; nothing is claimed about any other. A text keeps markers for its
anchors; one that lacks an anchor stands for all texts around it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import product

MAX_WORDS = 64
MAX_CHARACTERS = 1024  # in a text, so that reading any expression stays cheap
MAX_EXCLUDED = 100_000  # characters in a negated set, which then still leaves many
START, END = "\ufdd0", "\ufdd1"  # noncharacters that stand for ^ and $
ANCHORS = START + END
PLAIN = re.compile(r"[^\\^$.|?*+()\[\]{}]")
ESCAPED = re.compile(r"\\([^a-zA-Z0-9])")
HEXADECIMAL = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|[xu]\{([0-9a-fA-F]{1,6})\})")
PROPERTY = re.compile(r"\\[pP](?:\{[^{}]*\}|[A-Z])")
CONTROLS = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\f": "\f", "\\v": "\v"}
CLASSES = {"\\d": string.digits, "\\w": string.ascii_letters + string.digits + "_", "\\s": " \t\n\r\f\v"}
COUNTED = re.compile(r"\{(\d{1,6})(?:(,)(\d{0,6}))?\}")
GROUP = re.compile(r"\((?:\?:|\?P?<\w+>)?(?!\?)")


class _UnclearError(Exception):
    """The expression has a form that is not understood."""


@dataclass(frozen=True)
class _Texts:
    """The texts that a part matches, or None for more than the limit, and its anchors."""

    words: frozenset[str] | None
    opens: bool = False
    ends: bool = False

    @property
    def is_empty(self) -> bool:
        """Return True if it holds only anchors."""
        return self.words is not None and not any(word.strip(ANCHORS) for word in self.words)


NOTHING, MANY = _Texts(frozenset({""})), _Texts(None)


def finite_language(pattern: str, max_words: int = MAX_WORDS) -> list[str] | None:
    """Return all matching texts if they are few; None if they are many or it is unclear."""
    try:
        words = _language(pattern, max_words)
    except (_UnclearError, RecursionError):
        return None
    return None if words is None else sorted(words)


def matches_more(pattern: str, count: int) -> bool:
    """Return True if more than `count` texts are certain to match."""
    try:
        words = _language(pattern, count)
    except (_UnclearError, RecursionError):
        return False
    return words is None or len(words) > count


def _language(pattern: str, limit: int) -> frozenset[str] | None:
    reader = _Reader(pattern, limit)
    found = reader.alternatives()
    if reader.place < len(pattern):
        raise _UnclearError
    if found.words is None or not all(word.startswith(START) and word.endswith(END) for word in found.words):
        return None
    texts = frozenset(word.strip(ANCHORS) for word in found.words)
    return texts if len(texts) <= limit else None


@dataclass
class _Reader:
    pattern: str
    limit: int
    place: int = 0

    def next(self, signs: str) -> bool:
        """Consume the next character if it is one of `signs`; returns True if it was."""
        here = self.pattern[self.place : self.place + 1]
        found = here != "" and here in signs
        self.place += found
        return found

    def alternatives(self) -> _Texts:
        found = self.sequence()
        while self.next("|"):
            found = self.either(found, self.sequence())
        return found

    def sequence(self) -> _Texts:
        found = NOTHING
        while self.place < len(self.pattern) and self.pattern[self.place] not in "|)":
            found = self.joined(found, self.repeated(self.item()))
        return found

    def repeated(self, item: _Texts) -> _Texts:
        """Repeat the item as the quantifier after it says."""
        least, most = 1, 1
        if self.next("?"):
            least = 0
        elif self.next("*"):
            return self.endless(item)
        elif self.next("+"):
            return item if item.is_empty else self.endless(item)
        elif counted := COUNTED.match(self.pattern, self.place):
            self.place = counted.end()
            least = int(counted[1])
            if counted[2] and not counted[3]:
                return self.endless(item)
            most = int(counted[3] or least)
        else:
            return item
        self.next("?")  # lazy matching, which changes no text
        if self.pattern[self.place : self.place + 1] in ("*", "+", "{"):
            raise _UnclearError
        return self.counted(item, least, most)

    def endless(self, item: _Texts) -> _Texts:
        self.next("?")
        if item.opens or item.ends or self.pattern[self.place : self.place + 1] in ("*", "+", "{"):
            raise _UnclearError
        return NOTHING if item.is_empty else MANY

    def counted(self, item: _Texts, least: int, most: int) -> _Texts:
        if most > 1 and (item.opens or item.ends):
            raise _UnclearError
        if item.is_empty or item.words is None:
            return item if least else self.either(NOTHING, item)
        if least > MAX_CHARACTERS:
            raise _UnclearError
        found, power = (NOTHING if least == 0 else None), NOTHING
        for number in range(1, most + 1):
            power = self.joined(power, item)
            if number >= least:
                found = power if found is None else self.either(found, power)
            if power.words is None or (found is not None and found.words is None):
                return MANY
        return NOTHING if found is None else found

    def item(self) -> _Texts:
        if self.next("^"):
            return _Texts(frozenset({START}), opens=True)
        if self.next("$"):
            return _Texts(frozenset({END}), ends=True)
        if self.next("."):
            return MANY
        if self.next("["):
            return self.set()
        if group := GROUP.match(self.pattern, self.place):
            self.place = group.end()
            found = self.alternatives()
            if not self.next(")"):
                raise _UnclearError
            return found
        return self.escaped()

    def escaped(self) -> _Texts:
        if found := PROPERTY.match(self.pattern, self.place):
            self.place = found.end()
            return MANY
        if self.pattern[self.place : self.place + 2] in ("\\D", "\\W", "\\S"):
            self.place += 2
            return MANY
        return self.few(self.signs())

    def signs(self) -> frozenset[str]:
        """Read a character, plain or escaped, or a class of characters."""
        name = self.pattern[self.place : self.place + 2]
        if name in CLASSES or name in CONTROLS:
            self.place += 2
            return frozenset(CLASSES.get(name, CONTROLS.get(name, "")))
        if found := HEXADECIMAL.match(self.pattern, self.place):
            self.place = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF:
                raise _UnclearError
            return frozenset(chr(code))
        found = ESCAPED.match(self.pattern, self.place) or PLAIN.match(self.pattern, self.place)
        if found is None:
            raise _UnclearError
        self.place = found.end()
        return frozenset(found[0][-1])

    def set(self) -> _Texts:
        """Read a set in square brackets, plain or negated."""
        is_negated, is_first = self.next("^"), True
        ranges: list[tuple[int, int]] = []
        while not self.next("]"):
            here = self.pattern[self.place : self.place + 2]
            if here[:1] in ("", "[") or here in ("&&", "--", "~~") or (is_first and here[:1] == "]"):
                raise _UnclearError
            if here in ("\\D", "\\W", "\\S") or PROPERTY.match(self.pattern, self.place):
                if is_negated:
                    raise _UnclearError
                self.escaped()
                ranges.append((0, 0x10FFFF))
            else:
                ranges += self.range()
            is_first = False
        count = sum(high - low + 1 for low, high in ranges)
        if is_negated:
            if count > MAX_EXCLUDED:
                raise _UnclearError
            return MANY
        if max((high - low + 1 for low, high in ranges), default=0) > self.limit:
            return MANY
        return self.few(frozenset(chr(code) for low, high in ranges for code in range(low, high + 1)))

    def range(self) -> list[tuple[int, int]]:
        """Read one entry of a set as ranges of character codes."""
        first = self.in_set()
        following = self.pattern[self.place : self.place + 2]
        if not following.startswith("-") or following == "-]":
            return [(ord(sign), ord(sign)) for sign in first]
        self.place += 1
        last = self.in_set()
        low, high = ord(min(first)), ord(min(last))
        if len(first) != 1 or len(last) != 1 or low > high:
            raise _UnclearError
        return [(low, high)]

    def in_set(self) -> Set[str]:
        here = self.pattern[self.place : self.place + 1]
        if here in ("", "[", "]"):
            raise _UnclearError
        if here != "\\":
            self.place += 1
            return {here}
        return self.signs()

    def joined(self, left: _Texts, right: _Texts) -> _Texts:
        """Concatenate the texts of both; an anchor in the middle of a text is unclear."""
        if (right.opens and not left.is_empty) or (left.ends and not right.is_empty):
            raise _UnclearError
        opens, ends = left.opens or right.opens, left.ends or right.ends
        if left.words is None or right.words is None:
            return _Texts(None, opens, ends)
        words = (one + other for one, other in product(left.words, right.words))
        return self.few(words, opens, ends)

    def either(self, one: _Texts, other: _Texts) -> _Texts:
        opens, ends = one.opens or other.opens, one.ends or other.ends
        if one.words is None or other.words is None:
            return _Texts(None, opens, ends)
        return self.few(one.words | other.words, opens, ends)

    def few(self, words: Iterable[str], opens: bool = False, ends: bool = False) -> _Texts:
        """Return these texts, or "many" if they exceed the limit, with the given anchors."""
        kept: set[str] = set()
        for word in words:
            if len(word) > MAX_CHARACTERS:
                raise _UnclearError
            kept.add(word)
            if len(kept) > 4 * self.limit:
                return _Texts(None, opens, ends)
        return _Texts(frozenset(kept), opens, ends)
