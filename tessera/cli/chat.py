"""`tessera chat`: a conversation in the terminal; every turn sees all images and turns before it.

A line that begins with a slash is a command, answered even with --quiet. Nothing is
dropped to make room: a full context is reported, with the commands that free some.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel
from tessera.cli.history import kept_turn
from tessera.cli.session import (
    NamedImage,
    Session,
    in_flags,
    json_text,
    say,
    stopping_is_said,
    user_message,
    write_reply,
)
from tessera.errors import PromptTooLongError, TesseraError, TooManyImagesError, UsageError, counted
from tessera.sampling import SamplingParams, sampling_params_from_dict

PROMPT = "> "
ENDS = ("exit", "quit", "/exit", "/quit", "/bye")
COMMANDS = {
    "/image": "PATH... adds images to the next question; alone, lists those waiting",
    "/drop": "[NUMBER] removes a waiting image; without a number, the last one",
    "/system": "TEXT sets the system prompt; alone, shows it",
    "/reset": "starts over with the images given with -i",
    "/clear": "starts over, without images",
    "/save": "FILE writes the conversation as JSON",
    "/help": "shows these commands",
    "/quit": "ends, as do exit and Ctrl-D",
}
HINT = "/image PATH adds an image, /reset starts over, /help shows all commands, /quit quits; Ctrl-C stops a reply"
ROOM = "/drop removes a waiting image, /reset starts over; nothing was dropped"


@dataclass
class Talk:
    """The conversation so far, and the images for the next question."""

    session: Session
    model: ChatModel
    params: SamplingParams
    first: list[NamedImage]
    system: str | None
    pending: list[NamedImage] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)

    def start_over(self, images: list[NamedImage]) -> None:
        self.messages, self.kept, self.pending = [], [], list(images)

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []


def run_chat(session: Session, sources: list[str], system: str | None, params: Mapping[str, Any]) -> None:
    wanted = sampling_params_from_dict(params)
    if "-" in sources:
        raise UsageError("-i - reads standard input, where the questions come from; save the image to a file.")
    first = [session.image(source) for source in sources]
    talk = Talk(session, session.open(), wanted, first, system, pending=list(first))
    if sys.stdin.isatty():
        _edit_lines()
        session.note(HINT)
    while (line := _read_line(session)) is not None:
        line = line.strip()
        if line in ENDS:
            return
        if line.startswith("/"):
            _obey(talk, line)
        elif line:
            _answer(talk, line)


def _obey(talk: Talk, line: str) -> None:
    """Run a slash command; a mistake in it is reported and ends nothing."""
    name, _, argument = line.partition(" ")
    actions: dict[str, Callable[[Talk, str], str]] = {
        "/image": _add, "/drop": _drop, "/system": _set_system, "/save": _save,
        "/reset": _reset, "/clear": _clear, "/help": _help,
    }  # fmt: skip
    if name not in actions:
        return say(f"unknown command {name}; {_help(talk, '')}")
    try:
        say(actions[name](talk, argument.strip()))
    except TesseraError as error:
        say(f"error: {in_flags(str(error))}")


def _add(talk: Talk, argument: str) -> str:
    if not argument:
        names = [f"{number} {_name(image)}" for number, image in enumerate(talk.pending, 1)]
        return f"waiting: {', '.join(names)}" if names else "no images wait; /image PATH adds one"
    added = []
    for source in typed_paths(argument):
        # A wrong path must not fail every later turn: only readable images are kept.
        image = talk.session.image(source)
        talk.pending.append(image)
        added.append(f"{_name(image)}{_cost(talk.model, image)}")
    return f"{', '.join(added)}; {_count(len(talk.pending))} waiting"


def typed_paths(text: str) -> list[str]:
    """Parse paths typed or dropped on a terminal: quoted, escaped, below ~, or plain with spaces."""
    if Path(text).expanduser().is_file():
        return [str(Path(text).expanduser())]
    try:
        words = shlex.split(text)
    except ValueError:  # an unmatched quote is part of the name
        words = [text]
    if len(words) > 1 and not any(sign in text for sign in "'\"\\") and not all(map(_is_source, words)):
        words = [text]
    return [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]


def _is_source(word: str) -> bool:
    return "://" in word or word.startswith("data:") or Path(word).expanduser().is_file()


def _drop(talk: Talk, argument: str) -> str:
    if not talk.pending:
        return "no images wait; those of earlier questions stay until /reset"
    number = int(argument) if argument.isdecimal() else len(talk.pending)
    if (argument and not argument.isdecimal()) or not 1 <= number <= len(talk.pending):
        raise UsageError(f"/drop {argument} names no waiting image; give a number from 1 to {len(talk.pending)}.")
    dropped = talk.pending.pop(number - 1)
    return f"{_name(dropped)} taken back; {_count(len(talk.pending))} waiting"


def _set_system(talk: Talk, argument: str) -> str:
    if argument:
        talk.system = argument
        return "the system prompt is set, starting with the next question"
    return f"the system prompt is: {talk.system}" if talk.system else "there is no system prompt; /system TEXT sets one"


def _reset(talk: Talk, argument: str) -> str:
    talk.start_over(talk.first)
    return f"started over, {_count(len(talk.pending))} waiting"


def _clear(talk: Talk, argument: str) -> str:
    talk.start_over([])
    return "started over, without images"


def _save(talk: Talk, argument: str) -> str:
    if not argument:
        raise UsageError("/save needs a file; write /save talk.json.")
    file = Path(typed_paths(argument)[0])
    try:
        with file.open("x", encoding="utf-8") as out:
            content = {"model": talk.session.source.name, "messages": [*talk.opening(), *talk.kept]}
            out.write(json_text(content, indent=2) + "\n")
    except FileExistsError as error:
        raise UsageError(f"{file} exists and is not overwritten; name another file.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}); name another file.") from error
    return f"{counted(len(talk.kept) // 2, 'exchange')} saved in {file}"


def _help(talk: Talk, argument: str) -> str:
    width = max(map(len, COMMANDS))
    return "the commands are\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())


def _name(named: NamedImage) -> str:
    return Path(named.kept).name if "://" not in named.kept and named.kept[:5] != "data:" else named.kept[:60]


def _cost(model: ChatModel, named: NamedImage) -> str:
    """Example: ", 234 tokens"; empty for a model outside this process."""
    from tessera.images import grid_of, side_of, token_count
    from tessera.llm import LLM

    size = getattr(named.image.source, "size", None)
    if not isinstance(model, LLM) or size is None:
        return ""
    width, height = size
    side = side_of(named.image, model.limits)
    return f", {counted(token_count(grid_of(width, height, model.vision, max_side=side)), 'token')}"


def _count(images: int) -> str:
    return counted(images, "image") if images else "no images"


def _read_line(session: Session, again: bool = False) -> str | None:
    """Read the next line, None at the end. A terminal shows a prompt, and the first Ctrl-C only drops the line."""
    person = sys.stdin.isatty()
    try:
        if person and sys.stdout.isatty():
            return input(PROMPT)  # readline must know the prompt, or editing overwrites it
        if person:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        return input()
    except EOFError:
        if person:
            print(file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        if again or not person:
            raise
        session.note("press Ctrl-C again to quit, or use Ctrl-D or /quit")
        return _read_line(session, again=True)


def _edit_lines() -> None:
    """Enable editing, history, and Tab for commands and paths if this Python has readline."""
    try:
        import readline
    except ImportError:  # Python on Windows has none; plain input works without it
        return

    def complete(text: str, state: int) -> str | None:
        found = completions(readline.get_line_buffer(), text)
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


def completions(line: str, word: str) -> list[str]:
    """Complete the last word of a line: commands at its beginning, paths after /image and /save."""
    if line == word:
        return [f"{name} " for name in COMMANDS if name.startswith(word)] if word.startswith("/") else []
    if not line.startswith(("/image ", "/save ")):
        return []
    begun = Path(word).expanduser()
    folder, start = (begun, "") if word.endswith("/") or not word else (begun.parent, begun.name)
    head = word[: len(word) - len(start)]
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.name.startswith(start))
    except OSError:
        return []
    return [f"{head}{_escaped(entry.name)}{'/' if entry.is_dir() else ' '}" for entry in found]


def _escaped(name: str) -> str:
    return "".join(f"\\{sign}" if sign in " \\'\"" else sign for sign in name)


def _answer(talk: Talk, question: str) -> None:
    """Stream one reply and keep the turn; a failed turn is not kept, so it can be retried."""
    asked = [*talk.messages, user_message(question, talk.pending)]
    reply = ""
    try:
        with stopping_is_said():
            for delta in talk.session.stream(talk.model, [*talk.opening(), *asked], talk.params):
                reply += delta.text
                write_reply(delta.text)
    except KeyboardInterrupt:
        talk.session.note("stopped")
    except TesseraError as error:
        if reply:
            print(flush=True)
        say(f"error: {in_flags(str(error))}")
        if isinstance(error, (PromptTooLongError, TooManyImagesError)):
            say(ROOM)
        return
    print(flush=True)
    talk.messages = [*asked, {"role": "assistant", "content": reply}]
    talk.kept += [kept_turn(question, talk.pending), {"role": "assistant", "content": reply}]
    talk.pending = []
