"""Guesses a reply's next tokens by looking them up in the request's own earlier tokens.

Text often repeats its context: a transcription its prompt, JSON its own keys. So the last few
tokens are searched for among the earlier ones, and the tokens after a match are guessed to follow.
Each guess, drafted or not, is compared with the actual tokens, so a request knows at no cost how
often it guesses right after a match of each length; `odds` are products of these rates. `drafter`
decides what is drafted, and no model is needed. The idea: prompt lookup decoding (A. Saxena, 2023,
https://github.com/apoorvumang/prompt-lookup-decoding); what makes it exact: arXiv 2211.17192.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

# Earlier places to compare; beyond the first few, longer matches are rare.
MAX_PLACES = 32
# Each rate averages about the last MEMORY_GUESSES guesses (fewer at the start).
FIRST_GUESSES, MEMORY_GUESSES = 2, 16


class Lookup:
    """Index of one request's tokens; a token costs one dictionary entry, a guess a few comparisons.

    A match is `shortest` to `longest` tokens long.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self.shortest, self.longest = shortest, longest
        # By length of the match: how often the token after it was right. At first, as often as those in the match
        # itself, had each been guessed after the one before it: n - 1 of n.
        self.rates = [max(length - 1, 0) / max(length, 1) for length in range(longest + 1)]
        self._counts = [FIRST_GUESSES] * (longest + 1)  # number of guesses that each rate averages
        # The places that follow an n-gram of the shortest length: the latest, and before each place the one before.
        self._latest: dict[tuple[int, ...], int] = {}
        self._before = array("q")
        self._guess: list[int] = []  # the latest one,
        self._matched = 0  # the length of its match,
        self._length = 0  # and how many tokens there were

    def guess(self, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
        """Guess up to `count` tokens to follow `ids`, with the odds that each and all before it are right.

        `ids` are the previous call's with more at the end. Returns no tokens if no earlier place matches.
        Example: 1 2 3 4 1 2, matches of 2 tokens: 3 4 1 is guessed; a guess may run on into itself.
        """
        self._learn(ids)
        self._extend(ids)
        place, self._matched = self._match(ids)
        self._guess, self._length = [], len(ids)
        odds: list[float] = []
        for index in range(place, place + count if place else 0):
            self._guess.append(ids[index] if index < len(ids) else self._guess[index - len(ids)])
            odds.append((odds[-1] if odds else 1.0) * self.rates[self._length_after(len(odds))])
        return list(self._guess), odds

    def _learn(self, ids: Sequence[int]) -> None:
        """Compare the latest guess with the actual tokens, up to the first wrong one."""
        for index, (guessed, came) in enumerate(zip(self._guess, ids[self._length :], strict=False)):
            length = self._length_after(index)
            self._counts[length] = min(self._counts[length] + 1, MEMORY_GUESSES)
            self.rates[length] += ((guessed == came) - self.rates[length]) / self._counts[length]
            if guessed != came:
                return

    def _length_after(self, count: int) -> int:
        """Return the match's length once `count` guessed tokens were right."""
        return min(self._matched + count, self.longest)

    def _extend(self, ids: Sequence[int]) -> None:
        for place in range(len(self._before), len(ids)):
            before = 0
            if place >= self.shortest:
                gram = tuple(ids[place - self.shortest : place])
                before = self._latest.get(gram, 0)
                self._latest[gram] = place
            self._before.append(before)

    def _match(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return the place after the longest (then latest) match of the last tokens and its length; or 0, 0."""
        best, longest = 0, 0
        place = self._latest.get(tuple(ids[-self.shortest :]), 0)
        for _ in range(MAX_PLACES):
            if not place or longest == self.longest:
                break
            length = self.shortest
            while length < min(self.longest, place) and ids[place - 1 - length] == ids[-1 - length]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._before[place]
        return best, longest
