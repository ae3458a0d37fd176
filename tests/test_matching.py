"""Users' regular expressions: what `re` finds is found, and no expression holds the program for long."""

from __future__ import annotations

import re
import threading

import pytest

from tessera import matching
from tessera.errors import UsageError
from tessera.matching import check_patterns, matches

TEXTS = ["Total: 12.50", "total 7", "", "none\nTotal: 3", "a.b", "中文 Total: 1"]
PATTERNS = [r"(?<=Total: )\d+(?:\.\d+)?", r"(?i)total", r"(\w)\1", r"^$", r"(?m)^T.*$", r"\Anone", r"[^\x00-\x7f]+"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_match_is_what_re_finds_here(whole: bool) -> None:
    for pattern in PATTERNS:
        found = [(re.fullmatch if whole else re.search)(pattern, text) for text in TEXTS]
        assert matches([pattern], TEXTS, whole=whole) == [None if each is None else (0, each[0]) for each in found]


def test_the_first_pattern_that_matches_counts() -> None:
    patterns, texts = ["b.a", "c", "ab", "a"], ["abca", "xc", "cab", "a", "x", "bba"]
    assert matches(patterns, texts) == [(0, "bca"), (1, "c"), (1, "c"), (3, "a"), None, (0, "bba")]


@pytest.mark.parametrize(
    ("pattern", "text", "told"),
    [
        ("(a+)+b", "a" * 40, r"'\(a\+\)\+b' needs over 0 s of processor time on a text of 40 characters"),
        ("(", "", "is no regular expression .*correct it"),
        ("a{99999999999}", "", "is no regular expression"),
        ("a" * 1001, "", "1,001 characters, and may have 1,000"),
    ],
)
def test_a_pattern_at_fault_is_named_and_the_next_one_works(
    monkeypatch: pytest.MonkeyPatch, pattern: str, text: str, told: str
) -> None:
    monkeypatch.setattr(matching, "MAX_SECONDS", 0)  # until the system has counted one whole second
    with pytest.raises(UsageError, match=told):
        matches(["b", pattern], [text])
    assert matches(["b"], ["abc"]) == [(0, "b")]


def test_patterns_may_be_checked_without_a_text() -> None:
    check_patterns(["(a+)+b", "a"])
    with pytest.raises(UsageError, match="no regular expression"):
        check_patterns(["a", "a)"])


def test_threads_get_their_own_answers_from_one_child() -> None:
    matches(["b"], ["abc"])
    child, found = matching._child, {}

    def ask(number: int) -> None:
        found[number] = [matches([rf"{number}\d*"], [f"x{number}{each}"]) for each in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [[(0, f"{number}{each}")] for each in range(5)] for number in range(4)}
    assert matching._child is child
