"""`tessera chat`: a conversation in the terminal; every turn sees all pictures and turns before it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel, Image, SamplingParams, sampling_params_from_dict
from tessera.cli.session import Session, user_message
from tessera.errors import TesseraError, UsageError

HELP = "/image PATH adds a picture, /reset starts over, /quit ends; Ctrl-C stops a reply"


def run_chat(session: Session, sources: list[str], system: str | None, params: Mapping[str, Any]) -> None:
    wanted = sampling_params_from_dict(params)
    opening: list[Any] = [{"role": "system", "content": system}] if system else []
    if "-" in sources:
        raise UsageError("-i - reads standard input, where the questions come from; save the picture to a file.")
    first = [session.picture(source) for source in sources]
    messages, pending = list(opening), list(first)
    model = session.open()
    if sys.stdin.isatty():
        import readline  # noqa: F401  (editing and history for input())

        session.note(HELP)
    while (line := _read_line(session)) is not None:
        command, _, argument = line.strip().partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            messages, pending = list(opening), list(first)
        elif command == "/image" and argument:
            pending += _added(session, argument.strip())
        elif command.startswith("/"):
            session.note(HELP)
        elif command:
            turn = user_message(line.strip(), pending)
            if _answer(session, model, [*messages, turn], wanted, messages):
                pending = []


def _added(session: Session, source: str) -> list[Image]:
    """The picture, or nothing but a message: a wrong path must not fail every turn after it."""
    try:
        return [session.picture(str(Path(source).expanduser()) if source.startswith("~") else source)]
    except TesseraError as error:
        print(f"tessera: error: {error}", file=sys.stderr)
        return []


def _read_line(session: Session, again: bool = False) -> str | None:
    """The next line, None at the end. To a person the prompt shows, and the first Ctrl-C drops the line only."""
    person = sys.stdin.isatty()
    if person:
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return input()
    except EOFError:
        if person:
            print(file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        if again or not person:
            raise
        session.note("Ctrl-C again ends, and so do Ctrl-D and /quit")
        return _read_line(session, again=True)


def _answer(session: Session, model: ChatModel, asked: list[Any], params: SamplingParams, messages: list[Any]) -> bool:
    """Stream one reply and keep the turn; a turn that fails is not kept, so it can be tried again."""
    reply = ""
    try:
        for delta in model.stream(asked, params):
            reply += delta.text
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        session.note("stopped")
    except TesseraError as error:
        print(f"tessera: error: {error}", file=sys.stderr)
        return False
    print()
    messages[:] = [*asked, {"role": "assistant", "content": reply}]
    return True
