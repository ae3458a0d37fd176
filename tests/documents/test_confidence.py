"""Features of values, against sums by hand and a cut of the bytes themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.chat import Completion, Timings, TokenLogprob, Usage
from tessera.documents.confidence import Features, TokenSpans, align
from tessera.documents.spans import find_leaves


def reply_of(pieces: Sequence[tuple[str, float]], text: str | None = None) -> Completion:
    tokens = tuple(TokenLogprob(-1, piece, logprob) for piece, logprob in pieces)
    whole = "".join(piece for piece, _ in pieces) if text is None else text
    return Completion(whole, "stop", Usage(), Timings(), "m", logprobs=tokens)


def features(reply: Completion, path: str) -> Features:
    found = TokenSpans(reply).features(find_leaves(reply.text).by_path[path])
    assert found is not None
    return found


def test_a_strings_tokens_are_its_characters_and_the_quote_that_ends_it() -> None:
    reply = reply_of([('{"a": "', -9.0), ("Ac", -0.5), ("me", -0.25), ('"', -1.0), ("}", -7.0)])
    assert features(reply, "a") == Features(-1.75, -1.75 / 3, -1.0, 3)
    assert features(reply, "a").score == pytest.approx(math.exp(-1.75))


def test_a_quote_that_is_one_token_with_the_comma_does_not_count() -> None:
    reply = reply_of([('{"a": "', -9.0), ("Acme", -0.5), ('",', -3.0), (' "b": 12', -2.0), ("}", -7.0)])
    assert features(reply, "a") == Features(-0.5, -0.5, -0.5, 1)
    assert features(reply, "b") == Features(-2.0, -2.0, -2.0, 1)  # a token of key and value overlaps it


def test_an_empty_string_is_its_closing_quote() -> None:
    reply = reply_of([('{"a": "', -9.0), ('"', -0.125), ("}", -7.0)])
    assert features(reply, "a") == Features(-0.125, -0.125, -0.125, 1)


def test_null_numbers_and_words_have_features() -> None:
    pieces = [('{"a":', -9.0), (" ", -9.0), ("null", -0.5), (',"b":', -9.0), ("-1", -1.0), (".5", -2.0), ("}", -9.0)]
    reply = reply_of(pieces)
    assert features(reply, "a").log_product == -0.5
    assert features(reply, "b") == Features(-3.0, -1.5, -2.0, 2)


def test_a_character_of_three_tokens_counts_with_all_of_them() -> None:
    text = '{"a": "€5"}'
    euro = [("\ufffd", -1.0), ("\ufffd", -2.0), ("\ufffd", -3.0)]
    pieces = [('{"a": "', -9.0), *euro, ("5", -4.0), ('"', -0.0), ("}", -9.0)]
    assert features(reply_of(pieces, text), "a").log_product == -10.0


def test_the_end_token_and_a_first_space_are_not_text() -> None:
    reply = reply_of([(' {"a":', -1.0), ("7", -2.0), ("}", -3.0), ("</s>", -4.0)], '{"a":7}')
    assert features(reply, "a").log_product == -2.0


def test_a_text_cut_inside_its_last_token_still_matches() -> None:
    assert align("ab", [TokenLogprob(1, "a", 0.0), TokenLogprob(2, "bcd", 0.0)]) == [1, 2]


def test_tokens_of_another_text_have_no_features() -> None:
    reply = reply_of([("Ġfoo", -1.0)], '{"a":7}')
    spans = TokenSpans(reply)
    assert not spans
    assert spans.features(find_leaves(reply.text).by_path["a"]) is None
    assert TokenSpans(reply_of([], '{"a":7}')).features(find_leaves('{"a":7}').by_path["a"]) is None


CHARACTERS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)


def pieces_of(raw: bytes, cuts: list[int]) -> tuple[list[int], list[TokenLogprob]]:
    bounds = [0, *cuts, len(raw)]
    texts = [raw[start:end].decode(errors="replace") for start, end in pairwise(bounds)]
    return bounds[1:], [TokenLogprob(-1, text, -1.0) for text in texts]


@given(CHARACTERS.filter(lambda text: "\ufffd" not in text), st.sets(st.integers(1, 60)))
def test_tokens_of_any_bytes_are_aligned_and_ascii_is_where_it_is(text: str, cuts: set[int]) -> None:
    raw = text.encode()
    true, tokens = pieces_of(raw, sorted(cut for cut in cuts if cut < len(raw)))
    found = align(text, tokens)
    assert len(found) == len(tokens)
    assert all(a == b for a, b, token in zip(true, found, tokens, strict=True) if token.token[-1:].isascii() and raw)


@given(CHARACTERS, st.data())
def test_a_vocabulary_of_bytes_and_whole_characters_is_aligned_exactly(text: str, data: st.DataObject) -> None:
    pieces = [piece for char in text for piece in ([bytes([b]) for b in char.encode()] if data.draw(st.booleans()) else [char.encode()])]  # fmt: skip # noqa: E501
    true = list(accumulate(map(len, pieces)))
    tokens = [TokenLogprob(-1, piece.decode(errors="replace"), -1.0) for piece in pieces]
    assert align(text, tokens) == true or "\ufffd" in text


def test_a_long_reply_of_single_bytes_is_aligned() -> None:
    text = "漢字" * 500
    tokens = [TokenLogprob(-1, "\ufffd", -1.0) for _ in text.encode()]
    assert align(text, tokens) == list(range(1, len(text.encode()) + 1))
