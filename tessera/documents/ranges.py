"""Page ranges as people write them: "1-5,8,-1"."""

from __future__ import annotations

import re

from tessera.errors import UsageError, shown

MAX_RANGES = 1000
RANGE = re.compile(r"\s*(-?\d{1,9})\s*(?:(-)\s*(-?\d{1,9})?\s*)?")


def page_ranges(text: str, count: int) -> list[int]:
    """Return the wanted numbers, from 1, of a document of `count` pages: each once, in the document's order.

    "3" is one page, "3-7" and "3-" are ranges, and negative numbers count from the end: "-1" is the last page.
    Pages that the document lacks are left out. Raises UsageError if the text is no list of ranges.
    """
    wanted: set[int] = set()
    for first, last in _parsed(text):
        start = first if first > 0 else count + 1 + first
        stop = start if last is None else last if last > 0 else count + 1 + last
        wanted.update(range(max(start, 1), min(stop, count) + 1))
    return sorted(wanted)


def check_ranges(text: str | None) -> None:
    """Raise UsageError, before any document is read, if the text is no list of ranges."""
    if text is not None:
        _parsed(text)


def _parsed(text: str) -> list[tuple[int, int | None]]:
    """Return first and last pages; a last of None means the first alone, -1 the document's end."""
    parts = text.split(",")
    if len(parts) > MAX_RANGES:
        raise UsageError(
            f"{len(parts):,} page ranges were given, and the limit is {MAX_RANGES:,}; ask for them in several parts.",
            param="pages",
        )
    parsed = []
    for part in parts:
        match = RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = None if match is None or match[2] is None else int(match[3] or -1)
        if first == 0 or last == 0 or (last is not None and 0 < last < first):
            raise UsageError(
                f'the pages {shown(text)} contain {shown(part)}, which is no range; write them like "1-5,8,-1".',
                param="pages",
            )
        parsed.append((first, last))
    return parsed
