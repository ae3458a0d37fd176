"""The place of every JSON leaf in a reply: its path, its value, and the characters that say it.

Tokens' probabilities must be cut at exactly these characters: with the key, the quotes and the commas in, right
and wrong values part less clearly. Strings and numbers are read by the standard library's own scanner. A reply that
was cut gives the leaves that are complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

MAX_DEPTH = 64
MAX_OPENINGS = 64  # braces in a reply at which its object is looked for
MAX_LEAVES = 100_000
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
LIST = re.compile(r'\[\s*(?:[\[\]{"\d-]|true|false|null|$)')  # and not a word in brackets
SPACE = re.compile(r"[ \t\n\r]*")
NUMBER_ENDS = tuple(",]} \t\n\r")
WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}
PLAIN_KEY = re.compile(r'[^.\[\]"\s][^.\[\]"]*')
INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Leaf:
    """A value in a reply's text, from `start` to `end`; a string without its quotes. An empty list is a leaf too."""

    path: str
    value: Any
    start: int
    end: int
    quoted: bool = False


@dataclass(frozen=True)
class Leaves:
    """A reply's leaves by path, the last of equal keys; `whole` is False if the JSON breaks off or is damaged."""

    by_path: dict[str, Leaf]
    whole: bool


class _BrokenError(Exception):
    """The JSON ends too early, or is not JSON from here on."""


def find_json(text: str) -> tuple[int, int]:
    """Return where a reply's JSON begins and ends: all of a reply in a forced form, else the longest object in it.

    Models behind endpoints that force nothing put a fence around it, and words before and after. What was cut goes to
    the text's end; a text without an opening brace is returned whole.
    """
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "{" or LIST.match(text, start):
        try:
            return start, json.JSONDecoder().raw_decode(text, start)[1]
        except (ValueError, RecursionError):
            return start, len(text)
    best, place, first = (0, 0), text.find("{"), None
    for _ in range(MAX_OPENINGS):
        if place < 0:
            break
        try:
            end = json.JSONDecoder().raw_decode(text, place)[1]
        except (ValueError, RecursionError):
            if first is None and re.match(r'\{\s*"', text[place : place + 200]):
                first = place
            place = text.find("{", place + 1)
            continue
        best = max(best, (end - place, place))
        place = text.find("{", end)
    length, place = best
    if first is not None and (not length or first < place):  # an object inside one that was cut is not the reply
        return first, len(text)
    return (place, place + length) if length else (0, len(text))


def is_wrapped(text: str) -> bool:
    """Return True if a reply has more than spaces around its JSON."""
    start, end = find_json(text)
    return bool(text[:start].strip() or text[end:].strip())


def find_leaves(text: str) -> Leaves:
    """Find the leaves of the JSON in a text (`find_json`)."""
    found: dict[str, Leaf] = {}
    opening = re.compile(r"[{\[]").search(text, find_json(text)[0])
    if opening is None:
        return Leaves({}, False)
    reader = _Reader(text)
    try:
        for leaf in reader.read(opening.start(), "", 0):
            # Equal keys: the last one counts, with all that is in it, as in json.loads.
            found[leaf.path] = leaf
            if len(found) > MAX_LEAVES:
                raise _BrokenError
    except _BrokenError:
        return Leaves(_live(found, reader.dropped), False)
    return Leaves(_live(found, reader.dropped), True)


def child_path(path: str, key: str) -> str:
    """Return the path of a key: "vendor.name"; a key with dots, brackets or quotes is written ["a.b"]."""
    if not PLAIN_KEY.fullmatch(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def item_path(path: str, index: int) -> str:
    return f"{path}[{index}]"


def kind_of(path: str) -> str:
    """Return the kind of field at a path: "items[2].amount" is one of "items[].amount"."""
    return INDEX.sub("[]", path)


def group_of(path: str) -> str:
    """Return the list item that a path belongs to, "items[2]"; empty for a field of the record itself."""
    found = list(INDEX.finditer(path))
    return path[: found[-1].end()] if found else ""


def name_of(path: str) -> str:
    """Return the last key of a path: "amount" of "items[2].amount"."""
    return INDEX.sub("", path).rpartition(".")[2]


def _live(found: dict[str, Leaf], dropped: list[tuple[int, int]]) -> dict[str, Leaf]:
    """The leaves outside the stretches that a later equal key has replaced."""
    if not dropped:
        return found
    return {
        path: leaf
        for path, leaf in found.items()
        if not any(start <= leaf.start <= leaf.end <= end for start, end in dropped)
    }


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0  # of the value last read
        self.dropped: list[tuple[int, int]] = []  # values under keys that came again

    def read(self, start: int, path: str, depth: int) -> Iterator[Leaf]:
        first = self.text[start : start + 1]
        if first in ("{", "["):
            if depth == MAX_DEPTH:
                raise _BrokenError
            yield from (self._object if first == "{" else self._list)(start, path, depth)
        elif first == '"':
            value, end = self._string(start)
            self.end = end
            yield Leaf(path, value, start + 1, end - 1, quoted=True)
        else:
            yield self._bare(start, path)

    def _bare(self, start: int, path: str) -> Leaf:
        """Read a number or a word. A number inside must be followed by what ends it: a cut one may lack digits."""
        for word, value in WORDS.items():
            if self.text.startswith(word, start):
                self.end = start + len(word)
                return Leaf(path, value, start, self.end)
        match = NUMBER.match(self.text, start)
        if match is None or self.text[match.end() : match.end() + 1] not in NUMBER_ENDS:
            raise _BrokenError
        self.end = match.end()
        try:
            value = json.loads(match[0])
        except ValueError:  # more digits than Python turns into a number
            raise _BrokenError from None
        return Leaf(path, value, start, self.end)

    def _string(self, start: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self.text, start + 1, True)
        except ValueError:
            raise _BrokenError from None
        return value, end

    def _skip(self, start: int) -> int:
        return SPACE.match(self.text, start).end()  # type: ignore[union-attr]

    def _object(self, start: int, path: str, depth: int) -> Iterator[Leaf]:
        place = self._skip(start + 1)
        if self.text[place : place + 1] == "}":
            self.end = place + 1
            yield Leaf(path, {}, start, self.end)
            return
        seen: dict[str, tuple[int, int]] = {}
        while True:
            if self.text[place : place + 1] != '"':
                raise _BrokenError
            key, place = self._string(place)
            place = self._skip(place)
            if self.text[place : place + 1] != ":":
                raise _BrokenError
            value_start = self._skip(place + 1)
            if key in seen:
                self.dropped.append(seen[key])
            yield from self.read(value_start, child_path(path, key), depth + 1)
            seen[key] = value_start, self.end
            place = self._skip(self.end)
            sign = self.text[place : place + 1]
            if sign == "}":
                self.end = place + 1
                return
            if sign != ",":
                raise _BrokenError
            place = self._skip(place + 1)

    def _list(self, start: int, path: str, depth: int) -> Iterator[Leaf]:
        place = self._skip(start + 1)
        if self.text[place : place + 1] == "]":
            self.end = place + 1
            yield Leaf(path, [], start, self.end)
            return
        index = 0
        while True:
            yield from self.read(place, item_path(path, index), depth + 1)
            index += 1
            place = self._skip(self.end)
            sign = self.text[place : place + 1]
            if sign == "]":
                self.end = place + 1
                return
            if sign != ",":
                raise _BrokenError
            place = self._skip(place + 1)
