"""Turns token ids into text that may be shown: whole characters, and no part of a stop string.

Text is held back while it could be the beginning of a stop string, so the joined pieces of a stream
are the reply. The stop that is complete first wins, wherever token boundaries lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Detokenizer(Protocol):
    def add(self, token_id: int) -> str: ...

    def finish(self) -> str: ...


class TextStream:
    """The text of one reply as it grows; `stopped_by` is the stop string that was met."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def add(self, token_id: int, *, may_stop: bool) -> str:
        """Return text that is now certain; `may_stop` is false while the reply is too short to end."""
        return self._push(self._detokenizer.add(token_id), may_stop)

    def finish(self) -> str:
        """Return all held-back text, when the reply ends for a reason other than a stop string."""
        text = self._push(self._detokenizer.finish(), True)
        if self.stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _push(self, text: str, may_stop: bool) -> str:
        self._held += text
        if may_stop and (match := first_stop(self._held, self._stops)) is not None:
            # The shortest of the stop strings that begin here was complete first.
            self.stopped_by = min((stop for stop in self._stops if self._held.startswith(stop, match)), key=len)
            text, self._held = self._held[:match], ""
            return text
        held = held_length(self._held, self._stops)
        text, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        return text


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return the start of the stop string that is complete first; of those that end together, the longest.

    Example: in "abcd", stops "bcd" and "bc": "bc" is complete first, and begins at 1.
    """
    matches = [(found + len(stop), found) for stop in stops if (found := text.find(stop)) >= 0]
    return min(matches)[1] if matches else None


def held_length(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins a stop string. Example: "a\\n#", stop "\\n##": 2."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops if len(stop) > length):
            return length
    return 0
