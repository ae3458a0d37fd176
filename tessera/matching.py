"""Regular expressions that users give, run in a child process with a limit on its time.

Python's `re` goes back and tries again: `(a+)+b` takes twice as long with each further "a", holds the
interpreter's lock meanwhile, and cannot be stopped by a signal handler. So no expression of a user is compiled
or matched in this process. The expressions in our own code are others: tests/test_expressions.py judges them.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from tessera.children import ENDED_AS_SLOW, Child, MemoryBound, allow_seconds, be_expendable, receive, send, start
from tessera.errors import UsageError, shown

MAX_SECONDS = 2  # processor time of a call; at most one more, since systems count whole seconds
PATIENCE_S = 120.0  # by the clock, on a busy machine
MAX_BYTES = 256 << 20  # of memory beyond what a fresh child has
MAX_PATTERN = 1000  # characters

_child: Child | None = None
_one_at_a_time = threading.Lock()


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise UsageError if a pattern is too long, is no regular expression, or they take long to prepare."""
    matches(patterns, [])


def matches(patterns: Sequence[str], texts: Sequence[str], *, whole: bool = False) -> list[tuple[int, str] | None]:
    """Return for each text the number of the first pattern that is found in it, with what it matched; None without.

    With `whole`, a pattern must match the whole text. Raises UsageError that names the pattern at fault: it is
    invalid, or the patterns together exceed the limits of time or memory.
    """
    if long := [each for each in patterns if len(each) > MAX_PATTERN]:
        raise UsageError(
            f"a regular expression has {len(long[0]):,} characters, and may have {MAX_PATTERN:,}; shorten it."
        )
    with _one_at_a_time:
        return _asked(patterns, texts, whole)


def _asked(patterns: Sequence[str], texts: Sequence[str], whole: bool) -> list[tuple[int, str] | None]:
    global _child
    if _child is None or _child.process.poll() is not None:
        _child = start("tessera.matching", "_serve")
        _child.channel.settimeout(PATIENCE_S)
    found: list[tuple[int, str] | None] = [None] * len(texts)
    number, is_done = 0, False
    try:
        question = {"patterns": list(patterns), "texts": list(texts), "whole": whole, "seconds": MAX_SECONDS}
        send(_child.channel, question)
        for number in range(len(patterns)):
            answer, _ = receive(_child.channel)
            if "invalid" in answer:
                raise UsageError(
                    f"{shown(patterns[number])} is no regular expression ({answer['invalid']}); correct it."
                )
            for place, matched in answer["found"]:
                found[place] = number, matched
        is_done = True
    except OSError as error:
        raise UsageError(_limit(patterns[number], texts, _child)) from error
    finally:
        if not is_done:  # the rest of its answers would be read as those to the next question
            _child.end()
            _child = None
    return found


def _limit(pattern: str, texts: Sequence[str], child: Child) -> str:
    longest = max(map(len, texts), default=0)
    is_slow = child.end() in ENDED_AS_SLOW
    limit = f"{MAX_SECONDS} s of processor time" if is_slow else f"{MAX_BYTES >> 20} MiB or {PATIENCE_S:.0f} s"
    return (
        f"the regular expression {shown(pattern)} needs over {limit} on a text of {longest:,} characters; write it "
        "without repetitions within repetitions, such as (a+)+, and with fewer * and +."
    )


# The child ----------------------------------------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """Answer questions until the channel closes, or a limit ends this process."""
    channel = socket.socket(fileno=descriptor)
    be_expendable()
    bound = MemoryBound()
    with suppress(OSError):
        while True:
            question, _ = receive(channel)
            bound.allow(MAX_BYTES)
            allow_seconds(question["seconds"])
            for answer in _answers(question["patterns"], question["texts"], question["whole"]):
                send(channel, answer)


def _answers(patterns: list[str], texts: list[str], whole: bool) -> Iterator[dict[str, object]]:
    """Yield for each pattern the texts that it matches and none before it did."""
    left = dict(enumerate(texts))
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield {"invalid": str(error)[:200]}
            return
        match = compiled.fullmatch if whole else compiled.search
        found = [(place, result[0]) for place, text in left.items() if (result := match(text))]
        for place, _ in found:
            del left[place]
        yield {"found": found}
