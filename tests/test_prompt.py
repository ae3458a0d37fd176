"""Long texts are tokenized in pieces, no further than a limit and no longer than a deadline, and to the same ids."""

from __future__ import annotations

import random
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import PromptTooLongError, UsageError
from tessera.messages import Message
from tessera.prompt import MAX_RUN, PIECE, WORD_END, Tokenizer, packaged_tokenizer_path, reading
from tests.engine.tiny import VISION

CONTEXT = 131_072  # of Pixtral 12B
LONGEST = 76 * CONTEXT - 1  # characters: no token has more than 76 bytes, so longer texts are refused unread
SIGNS = [
    "a", "B", "word", "HTTPServer", " ", "  ", " a", "\n", "\r\n", "\t", "/\n", "1", "23", ".", "!", "/", "-", "(", "_",
    "'s", "\xa0", "\u2028", "\x1c", "\x85", "\u3000", "\u0301", "\u4e2d", "\u3002", "\uff0c", "\u200d", "\u00b2",
    "\u2167", "\u0663", "\u01c5", "\u02b0", "\x00", "\ud7a3", "\U0001f600",
]  # fmt: skip


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(packaged_tokenizer_path(), VISION)


def whole(text: str) -> list[int]:
    """The ids by the library alone."""
    base = tokenizer()._base
    return [token + base.num_special_tokens for token in base._model.encode(text)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SIGNS), min_size=2, max_size=40).map("".join))
def test_a_text_may_be_cut_wherever_a_word_ends(text: str) -> None:
    for found in WORD_END.finditer(text):
        assert whole(text[: found.start()]) + whole(text[found.start() :]) == whole(text)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_text_has_the_ids_of_the_whole(seed: int) -> None:
    choose = random.Random(seed)
    text = "".join(choose.choice(SIGNS) for _ in range(4 * (PIECE + MAX_RUN) // 2))
    assert tokenizer().encode_text(text, bos=False) == whole(text)
    assert tokenizer().encode_text(text)[0] == tokenizer().bos_id


def joined(part: str, size: int = LONGEST) -> str:
    return part * (size // len(part))


def letters(run: int) -> str:
    choose = random.Random(5)
    return joined("".join(choose.choices("abcdefghijklmnop", k=run)) + " ", 2_700_000)


SLOW = {
    "one letter": lambda: "a" * LONGEST, "a context of one letter": lambda: "a" * CONTEXT,
    "letters": lambda: letters(30_000), "long letters": lambda: letters(130_000), "spaces": lambda: " " * LONGEST,
    "new lines": lambda: "\n" * LONGEST, "marks": lambda: "a" + "\u0301" * (LONGEST - 1),
    "joined": lambda: joined("\U0001f468\u200d"), "spaces and a": lambda: joined(" " * 130_000 + "a"),
 "rules": lambda: joined("-" * 75 + "\n"),
    "digits": lambda: "1" * LONGEST, "capitals": lambda: joined("Aa"), "words": lambda: joined("lorem ipsum dolor "),
    "rare": lambda: joined("".join(chr(0x4E00 + 7919 * n % 20_000) for n in range(130_000)) + " ", 1_100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_no_text_that_could_fit_takes_longer_than_the_deadline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline_s = 0.5  # a shorter one is met by more of the texts, and exceeded no more by any
    monkeypatch.setattr("tessera.prompt.MAX_READING_S", deadline_s)
    text = SLOW[name]()
    assert tokenizer().least_tokens(len(text)) < CONTEXT
    began = time.thread_time()
    try:
        told = f"{len(tokenizer().encode_text(text, max_tokens=2 * CONTEXT)):,} tokens"
    except (PromptTooLongError, UsageError) as error:
        told = str(error)
    took = time.thread_time() - began
    print(f"{name}: {took:.2f} s, {told}")  # shown with -s
    assert took < deadline_s + 1


def test_the_limits_are_of_all_texts_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [Message("user", ("a b c",) * 30), Message("assistant", ("d e",)), Message("user", ("f",))]
    length = len(tokenizer().encode_chat(messages, []).ids)
    assert len(tokenizer().encode_chat(messages, [], max_tokens=length).ids) == length
    with pytest.raises(PromptTooLongError, match="more than 90 tokens"):
        tokenizer().encode_chat(messages, [], max_tokens=90)
    monkeypatch.setattr("tessera.prompt.MAX_READING_S", 0.05)

    def several() -> None:
        for _ in range(100):
            tokenizer().encode_text("lorem ipsum " * 5_000, max_tokens=CONTEXT)

    with reading(), pytest.raises(PromptTooLongError, match="s of a processor"):
        several()
