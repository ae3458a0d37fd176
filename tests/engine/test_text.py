"""Whole characters only, and nothing of a stop string, wherever the borders of tokens lie."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.engine.text import TextStream, first_stop, held_length
from tests.engine.tiny import ByteDetokenizer, text_ids


class Pieces:
    """A detokenizer whose 'ids' index ready pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def add(self, token_id: int) -> str:
        return self.pieces[token_id]

    def finish(self) -> str:
        return ""


def play(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    stream, shown = TextStream(Pieces(pieces), stops), ""
    for index in range(len(pieces)):
        shown += stream.add(index, may_stop=True)
        if stream.stopped:
            return shown, True
    return shown + stream.finish(), stream.stopped


def by_character(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The definition: read on character by character until some stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.text("ab#", max_size=4), max_size=12),
    st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_split_into_pieces_gives_what_reading_by_character_gives(pieces: list[str], stops: tuple[str, ...]) -> None:
    assert play(pieces, stops) == by_character("".join(pieces), stops)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_no_half_character_is_shown(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    stream = TextStream(ByteDetokenizer(), ())
    pieces = [stream.add(token_id, may_stop=True) for token_id in text_ids(text)]
    assert "".join(pieces) + stream.finish() == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_a_character_cut_off_by_the_end_is_shown_as_one_replacement() -> None:
    stream = TextStream(ByteDetokenizer(), ())
    assert "".join(stream.add(token_id, may_stop=True) for token_id in text_ids("a€")[:-1]) == "a"
    assert stream.finish() == "\ufffd"


def test_a_stop_string_is_passed_over_while_the_reply_may_not_end() -> None:
    stream = TextStream(Pieces(["one#", "two", "#three"]), ("#",))
    assert stream.add(0, may_stop=False) == "one#"
    assert stream.add(1, may_stop=True) == "two"
    assert stream.add(2, may_stop=True) == ""
    assert stream.stopped


@pytest.mark.parametrize(("text", "held"), [("a\n#", 2), ("a\n##", 0), ("\n", 1), ("a", 0), ("", 0)])
def test_text_is_held_back_while_it_may_become_a_stop(text: str, held: int) -> None:
    assert held_length(text, ("\n##",)) == held


def test_the_stop_that_is_complete_first_wins() -> None:
    assert first_stop("abcd", ("bcd", "bc")) == 1
    assert first_stop("abcd", ("bcd", "cd")) == 1
    assert first_stop("abcd", ("x",)) is None
