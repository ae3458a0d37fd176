"""Separates what a model thinks from its answer, in replies to chats of all formats and in batches.

Magistral and Ministral 3 Reasoning write [THINK] and [/THINK], tokens of their own, which a reply's text shows. Only
those tokens count: the same letters written as ordinary text are part of the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from tessera.chat import Completion, Delta, TokenLogprob
from tessera.engine.text import held_length
from tessera.prompt import THOUGHT_MARKS, Tokenizer

OPENING = THOUGHT_MARKS[0]


class ThoughtReader:
    """Moves the text between the marks of one reply to its deltas' `reasoning`, and drops the marks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._marks = tokenizer.thought_marks
        self._due: deque[str] = deque()  # marks whose tokens have come, and whose text may come later
        self._held = ""
        self._is_thinking = False

    def read(self, delta: Delta) -> Delta:
        """Return the delta with its text divided."""
        self._due += [self._marks[token] for token in delta.token_ids if token in self._marks]
        if not (self._due or self._held or self._is_thinking):
            return delta
        pieces = {False: "", True: ""}
        self._held += delta.text
        while self._due and self._due[0] in self._held:
            mark = self._due.popleft()
            text, _, self._held = self._held.partition(mark)
            pieces[self._is_thinking] += text
            self._is_thinking = mark == OPENING
        kept = held_length(self._held, [*self._due][:1]) if delta.finish_reason is None else 0
        pieces[self._is_thinking] += self._held[: len(self._held) - kept]
        self._held = self._held[len(self._held) - kept :]
        return replace(delta, text=pieces[False], reasoning=pieces[True])


class ThoughtTokens:
    """Follows the tokens of one reply: counts those of its thoughts, and leaves them out of its log-probabilities."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._marks = tokenizer.thought_marks
        self._by_ids = self._by_entries = False  # whether the last token was within a thought
        self.count = 0  # marks included

    def take(self, told: Delta | Completion) -> tuple[TokenLogprob, ...]:
        """Count, and return the log-probabilities of the answer's tokens."""
        if not self._marks:
            return told.logprobs
        thought, self._by_ids = self._divided(told.token_ids, self._by_ids)
        self.count += sum(thought)
        thought, self._by_entries = self._divided([entry.token_id for entry in told.logprobs], self._by_entries)
        return tuple(entry for entry, is_thought in zip(told.logprobs, thought, strict=True) if not is_thought)

    def _divided(self, token_ids: Iterable[int], is_within: bool) -> tuple[list[bool], bool]:
        """Tell of each token whether it is of a thought, and whether the next one would be."""
        found = []
        for token in token_ids:
            mark = self._marks.get(token)
            found.append(is_within or mark is not None)
            is_within = is_within if mark is None else mark == OPENING
        return found, is_within


def without_thoughts(completion: Completion, tokenizer: Tokenizer) -> Completion:
    """A whole reply divided; one that is divided already stays as it is."""
    if not tokenizer.thought_marks or completion.reasoning:
        return completion
    whole = ThoughtReader(tokenizer).read(
        Delta(completion.text, completion.token_ids, finish_reason=completion.finish_reason)
    )
    return replace(completion, text=whole.text, reasoning=whole.reasoning)
