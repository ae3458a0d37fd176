"""Guesses follow the longest earlier match, rates follow what came, and drafts stop where they do not pay."""

from __future__ import annotations

from itertools import takewhile
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.engine.drafter import ROW_COST, Drafter, Step
from tessera.engine.lookup import FIRST_GUESSES, MAX_PLACES, MEMORY_GUESSES, Lookup
from tessera.sampling import SamplingParams
from tests.engine.tiny import EOS, prompt, tiny_engine, tiny_model

MODEL = tiny_model()
FREE = Step(10**9, 0)  # in which another row costs nothing


def naive_guess(ids: list[int], shortest: int, longest: int, count: int) -> list[int]:
    """Every earlier place is tried, the last MAX_PLACES that match the shortest length are compared."""
    tail = ids[-shortest:]
    places = [end for end in range(len(ids) - 1, shortest - 1, -1) if ids[end - shortest : end] == tail]

    def matched(end: int) -> int:
        lengths = range(shortest, min(longest, end) + 1)
        return max(length for length in lengths if ids[end - length : end] == ids[-length:])

    if not places or len(ids) < shortest:
        return []
    best = max(places[:MAX_PLACES], key=matched)
    endless = list(ids)
    for index in range(count):
        endless.append(endless[best + index])
    return endless[len(ids) :]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 3), st.integers(0, 4), st.integers(1, 9))
def test_the_index_finds_what_a_search_of_everything_finds(
    ids: list[int], shortest: int, more: int, count: int
) -> None:
    lookup = Lookup(shortest, shortest + more)
    for length in range(len(ids) + 1):
        guessed, odds = lookup.guess(ids[:length], count)
        assert guessed == naive_guess(ids[:length], shortest, shortest + more, count)
        assert len(odds) == len(guessed)
        assert sorted(odds, reverse=True) == odds
        assert all(0 <= rate <= 1 for rate in lookup.rates)


def test_the_example_of_the_docstring() -> None:
    # After matches of 2, 3 and 4 tokens, so with odds of 1/2, 2/3 and 3/4, each where those before it are right.
    guessed, odds = Lookup(2, 4).guess([1, 2, 3, 4, 1, 2], 3)
    assert guessed == [3, 4, 1]
    assert odds == pytest.approx([1 / 2, 1 / 3, 1 / 4])


def test_a_rate_is_the_mean_of_the_last_guesses() -> None:
    lookup = Lookup(1, 1)
    ids = [7, 7]
    for number in range(1, 40):
        lookup.guess(ids, 1)
        ids.append(7)  # right each time: n of the n + 2 guesses, until only the last ones count
        lookup.guess(ids, 1)
        if number <= MEMORY_GUESSES - FIRST_GUESSES:
            assert lookup.rates[1] == pytest.approx(number / (number + FIRST_GUESSES))
    before = lookup.rates[1]
    assert 0.9 < before < 1
    ids.append(8)
    lookup.guess(ids, 1)
    assert lookup.rates[1] == pytest.approx(before * (1 - 1 / MEMORY_GUESSES))


class Counting(list[int]):
    """A list that counts how many of its items are read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self.reads += len(found) if isinstance(index, slice) else 1
        return found


def test_a_long_context_is_indexed_once_and_a_token_costs_no_more_in_it() -> None:
    random = Random(0)
    ids = [random.randrange(50) for _ in range(131_072)]
    lookup = Lookup(2, 8)
    lookup.guess(ids, 8)
    seen = Counting(ids)
    for _ in range(1000):
        seen.append(random.randrange(50))
        lookup.guess(seen, 8)
    # A new token is read for its n-gram and for at most 32 places of 8 tokens: not the context anew.
    assert seen.reads < 1000 * 32 * 8 * 2


def test_guesses_that_come_true_are_made_longer_and_those_that_do_not_end() -> None:
    drafter = Drafter(tiny_engine(MODEL).config, {EOS})
    engine = tiny_engine(MODEL, num_speculative_tokens=0)
    request = engine.add(prompt("abcdefgh" * 3), SamplingParams(max_tokens=200))
    lengths = []
    for token_id in prompt("abcdefgh" * 8).ids[1:]:
        lengths.append(len(drafter.draft(request, 100, Step(1, 1))))
        request.append(token_id)
    assert 0 < lengths[0] < lengths[-1] == drafter.config.num_speculative_tokens
    random = Random(0)
    pairs = [token for _ in range(60) for token in (31, 32, random.randrange(100, 250))]  # what follows a pair is new
    wrong = []
    for index, token_id in enumerate(pairs):
        draft = drafter.draft(request, 100, Step(1, 1))
        right = list(takewhile(lambda pair: pair[0] == pair[1], zip(draft, pairs[index:], strict=False)))
        wrong.append(len(draft) - len(right))
        request.append(token_id)
    assert sum(wrong[:30]) > 0
    assert ROW_COST * sum(wrong[90:]) < 3  # steps, of 90


def test_a_draft_ends_before_what_is_never_written_and_with_the_reply() -> None:
    drafter = Drafter(tiny_engine(MODEL).config, {EOS, 10})
    engine = tiny_engine(MODEL, num_speculative_tokens=0)
    request = engine.add(prompt("abcabc"), SamplingParams(max_tokens=3))
    assert drafter.draft(request, 100, FREE) == tuple(prompt("ab").ids[1:])  # two, and the step's own token
    assert drafter.draft(request, 1, FREE) == tuple(prompt("a").ids[1:])
    assert drafter.draft(request, 0, FREE) == ()
    for wrong in (EOS, 10):
        request = engine.add(prompt("xy"), SamplingParams(max_tokens=30))
        request.ids += [50, wrong, 50, 51, 60, wrong, 70, 50, 51]
        assert drafter.draft(request, 100, FREE) == (60,)


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"), [(1, 1, 0.15), (8, 8, 0.15 * 8 / 2.05), (200, 1, 0.15 / 30.85)]
)
def test_a_row_costs_what_it_costs_in_tokens(rows: int, tokens: int, expected: float) -> None:
    assert ROW_COST == 0.15
    step = Step(rows, tokens)
    assert step.least_odds == pytest.approx(expected)
    step.add(0.5)
    assert step == Step(rows + 1, tokens + 0.5)


def test_counts_tell_what_was_drafted_and_accepted() -> None:
    engine = tiny_engine(MODEL)
    request = engine.add(prompt("ab"), SamplingParams(max_tokens=40, ignore_eos=True, logit_bias={101: 100.0}))
    while engine.has_work:
        engine.step()
    assert request.output_ids == [101] * 40
    stats = engine.stats()
    assert stats.completion_tokens == 40
    assert stats.drafts.accepted == stats.drafts.tokens > 20
    assert stats.steps == 40 - stats.drafts.accepted
    off = tiny_engine(MODEL, num_speculative_tokens=0)
    off.add(prompt("ab"), SamplingParams(max_tokens=9, logit_bias={101: 100.0}))
    while off.has_work:
        off.step()
    assert (off.stats().drafts.drafts, off.stats().steps) == (0, 9)
