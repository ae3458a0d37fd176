"""Replies that failed in themselves: that repeat without end, were cut, or are not the JSON that was asked for.

A small model that loses its place on a page writes the same words again and again (olmocr#41, zerox#192). Such a
reply is asked for again at a higher temperature, and the best one is kept.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tessera.chat import Completion
from tessera.documents.spans import find_json

MIN_REPEATS, MIN_CHARS = 6, 60  # of one unit in a row, and the characters that they fill
LONGEST_UNIT = 400
TAIL = 6_000  # characters that are looked at
CLOSING = " \t\r\n`"  # what may end a reply after words that go in circles: a line, a fence
ROW = re.compile(r"\{[^{}]*\}")
SAME_ROWS = 12  # equal rows of a list, or lines, in a row; repeats of a unit at the end of a line before others
MAX_PERIOD = 4  # lines that repeat together
OF_NUMBERS = 4  # times as many repeats, where a unit is numbers alone: rows of a table may be equal
MAX_CUTS = 8


def problem_of(reply: Completion, *, plain: bool, wire: Mapping[str, Any] | None = None) -> str | None:
    """Return why a reply should be asked for again: "loop", "length", "invalid" or "shape"; None for a sound one.

    With `wire`, the enforced form of its schema, a reply that lacks objects, lists or keys of it has no right shape.
    """
    if loops(reply.text, plain=plain):
        return "loop"
    if reply.finish_reason == "length":
        return "length"
    if plain:
        return None
    value = parsed(reply.text)
    if not isinstance(value, dict):
        return "invalid"
    return None if wire is None or _has_shape(value, wire) else "shape"


def _has_shape(value: Any, wire: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if "properties" in wire:
        parts: Mapping[str, Any] = wire["properties"]
        return isinstance(value, dict) and all(
            name in value and _has_shape(value[name], part) for name, part in parts.items()
        )
    if "items" in wire:
        return isinstance(value, list) and all(_has_shape(each, wire["items"]) for each in value)
    return True


def loops(text: str, *, plain: bool) -> bool:
    """Return whether a text ends in one unit of words again and again, or has too many equal lines or rows of values.

    In a plain text, words may also go in circles in a line of its own, with others after it. A row without values, or a
    rule of dashes under a heading, is no loop, nor are a table's equal rows of numbers if there are not very many.
    """
    if _circles(text.rstrip(CLOSING), MIN_REPEATS):
        return True
    if not plain:
        return _same_rows(ROW.findall(text))
    lines = [line.strip() for line in text.split("\n")]
    filled = [line for line in lines if any(map(str.isalnum, line))]
    return _same_lines(filled) or any(_circles(line, SAME_ROWS) for line in filled)


def _circles(text: str, repeats: int) -> bool:
    """Return whether a text ends in so many repeats of a unit."""
    tail = text[-TAIL:]
    for length in range(1, LONGEST_UNIT):
        unit = tail[-length:]
        needed = max(repeats, -(-MIN_CHARS * repeats // MIN_REPEATS // length))
        if length * needed > len(tail):
            break
        if tail.endswith(unit * needed * _factor(unit)) and any(map(str.isalnum, unit)):
            return True
    return False


def _factor(unit: str) -> int:
    return 1 if any(map(str.isalpha, unit)) else OF_NUMBERS


def _same_lines(lines: Sequence[str]) -> bool:
    for period in range(1, MAX_PERIOD + 1):
        count = 0
        for place, line in enumerate(lines[period:]):
            count = count + 1 if line == lines[place] else 0
            if count >= (SAME_ROWS * _factor("".join(lines[place : place + period])) - 1) * period:
                return True
    return False


def _same_rows(rows: Sequence[str]) -> bool:
    count = 1
    for before, row in pairwise(rows):
        count = count + 1 if row == before and re.search(r'": (?!null|""|\[\])', row) else 1
        if count >= SAME_ROWS:
            return True
    return False


def parsed(text: str) -> Any:
    """Return the JSON in a text (`find_json`), or None."""
    start, end = find_json(text)
    try:
        return json.loads(text[start:end])
    except (ValueError, RecursionError):
        return None


def completed(text: str) -> str:
    """Close JSON that was cut, after its last whole value; "{}" if there is none."""
    text = text[slice(*find_json(text))]
    closers: list[str] = []
    cuts: deque[str] = deque(maxlen=MAX_CUTS)  # the latest places after which the text may be closed
    in_string = escaped = False
    for index, sign in enumerate(text):
        if in_string:
            in_string = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            in_string = True
        elif sign in "{[":
            closers.append("}" if sign == "{" else "]")
        elif closers and sign in "}],":
            if sign != ",":
                closers.pop()
            cuts.append(text[: index + (sign != ",")] + "".join(reversed(closers)))
    return next((cut for cut in reversed(cuts) if parsed(cut) is not None), "{}")
