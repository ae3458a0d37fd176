"""Tries to compile a grammar in a separate process, which can be stopped; compiling itself cannot.

A short schema may describe an exponential amount of work (allOf over several anyOf), and a thread
busy inside a library can neither be stopped nor kept from taking memory. So each new grammar is
compiled here first, over a vocabulary of single bytes. Run as a script, this file is the child: it
answers each line of its input with one line, and imports only llguidance so that it starts quickly.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from typing import Any

DEADLINE_S = 10.0
MEMORY_BYTES = 1 << 30  # limit of the child's address space
MAX_LEXER_STATES = 20_000  # a kilobyte or two each, for every request; an ordinary schema has hundreds
NUM_SPECIAL = 1024  # ids below are special in the child's vocabulary, so that tool grammars can name theirs
VISIBLE = range(NUM_SPECIAL + ord("!"), NUM_SPECIAL + 127)  # ids of the bytes that are visible characters
OPENING = [NUM_SPECIAL + ord(sign) for sign in '{"']  # characters that lead into a schema's parts, tried first
TOO_COMPLEX = "too complex"
BUSY = "busy"
NOT_GBNF = "not GBNF"
WALK_STEPS = 48  # characters of an allowed text; too complex a grammar shows where its large parts begin


class GrammarCheck:
    """The child process, started on first use and restarted after a stop; one question at a time."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def ask(self, lark: str) -> str:
        """Return the grammar's problem in the library's words; "" if none, TOO_COMPLEX if compiling takes too long.

        Returns BUSY if others take that long: a thread must not wait for a queue of hard grammars.
        """
        return self._ask({"lark": lark})[0]

    def convert(self, gbnf: str) -> tuple[str, str]:
        """Return the problem of a grammar in llama.cpp's language (NOT_GBNF, or as from `ask`), and its Lark form."""
        return self._ask({"gbnf": gbnf})

    def _ask(self, question: dict[str, str]) -> tuple[str, str]:
        if not self._lock.acquire(timeout=self.deadline_s):
            return BUSY, ""
        try:
            if self._child is None or self._child.poll() is not None:
                self._child = _start()
            child = self._child
            timer = threading.Timer(self.deadline_s, child.kill)
            timer.start()
            try:
                answer = _exchange(child, json.dumps(question))
            finally:
                timer.cancel()
            if answer is None:
                child.kill()
                child.wait()
                return TOO_COMPLEX, ""
            problem, lark = json.loads(answer)
            return str(problem), str(lark)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Stop the child even if it is busy; the next question starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()


def _start() -> subprocess.Popen[str]:
    # -P: do not import from this file's folder.
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )


def _exchange(child: subprocess.Popen[str], line: str) -> str | None:
    """Send one line to the child and read one back; None if it ended instead."""
    if child.stdin is None or child.stdout is None:
        raise ValueError("the child has no pipes")
    try:
        child.stdin.write(line + "\n")
        child.stdin.flush()
        return child.stdout.readline() or None
    except OSError:
        return None


def _answer_all() -> None:
    """Run as the child: compile each grammar until the input ends."""
    import llguidance

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except ImportError:  # not a Unix: the deadline alone must do
        pass
    tokenizer = llguidance.LLTokenizer(_Bytes())  # type: ignore[arg-type]
    limits = llguidance.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    for line in sys.stdin:
        question = json.loads(line)
        if "gbnf" in question:
            answer = _convert(question["gbnf"])
        else:
            matcher = llguidance.LLMatcher(tokenizer, question["lark"], log_level=0, limits=limits)
            _walk(matcher)
            answer = matcher.get_error(), ""
        print(json.dumps(answer), flush=True)


def _convert(gbnf: str) -> tuple[str, str]:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return "", str(gbnf_to_lark(gbnf)).removeprefix("%llguidance {}")
    except Exception:  # the converter has no exception class of its own for most refusals
        return NOT_GBNF, ""


def _walk(matcher: Any) -> None:
    """Follow a text for a few steps: the first detects a grammar that matches nothing, the next its large parts."""
    if not matcher.is_error():
        matcher.compute_bitmask()
    for step in range(WALK_STEPS):
        if matcher.is_error() or matcher.is_stopped():
            return
        turn = 7 * step % len(VISIBLE)
        order = itertools.chain(OPENING, VISIBLE[turn:], VISIBLE[:turn])
        sign = next((sign for sign in order if matcher.validate_tokens([sign])), None)
        if sign is None:
            return
        matcher.consume_token(sign)
        if step == 0 and not matcher.is_error():
            matcher.compute_bitmask()  # again after a first character, where a regular expression shows its size


class _Bytes:
    """The vocabulary: special ids, then all bytes, under the names that llguidance reads."""

    is_tokenizer_wrapper = True
    eos_token_id = 2
    bos_token_id = 1

    def __init__(self) -> None:
        self.special_token_ids = list(range(NUM_SPECIAL))
        self.tokens = [f"<special_{number}>".encode() for number in range(NUM_SPECIAL)]
        self.tokens += [bytes([byte]) for byte in range(256)]

    def __call__(self, text: Any) -> list[int]:
        return [NUM_SPECIAL + byte for byte in (text.encode() if isinstance(text, str) else text)]


if __name__ == "__main__":
    _answer_all()
