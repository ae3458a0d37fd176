"""Pages' texts and places as an index keeps them: zlib, and four 16-bit numbers a word, side by side."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from tessera.documents.page import Box, Word

SCALE = 65_535  # steps across a page
LEVEL = 6
MAX_TEXT = 2_000_000  # characters of a page


def kept_text(text: str) -> str:
    """What is kept of a text: a bounded part, without halves of surrogate pairs."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def packed_text(text: str) -> bytes:
    return zlib.compress(text.encode(), LEVEL)


def text_of(packed: bytes | None) -> str:
    return "" if packed is None else zlib.decompress(packed).decode("utf-8")


def packed_boxes(words: Sequence[Word]) -> bytes | None:
    """Pack the words' places, in their order; the text has the words. None without words."""
    if not words:
        return None
    sides = np.array([(w.box.left, w.box.top, w.box.right, w.box.bottom) for w in words])
    columns = np.rint(np.clip(sides, 0, 1) * SCALE).astype("<u2").T
    # Differences repeat where edges do; high and low bytes apart compress better.
    differences = np.ascontiguousarray(np.diff(columns, axis=1, prepend=np.uint16(0)).astype("<u2"))
    planes = differences.view(np.uint8).reshape(4, -1, 2).transpose(0, 2, 1)
    return zlib.compress(planes.tobytes(), LEVEL)


def boxes_of(packed: bytes | None, page: int) -> list[Box]:
    if packed is None:
        return []
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(4, 2, -1)
    differences = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<u2").reshape(4, -1)
    sides = np.cumsum(differences, axis=1, dtype=np.uint16).T / SCALE
    return [Box(page, *map(float, row)) for row in sides]
