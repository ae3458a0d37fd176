"""`tessera ask`: one question, one streamed answer or JSON object; the exchange is saved, so it can be resumed.

Arguments that name images are images wherever they stand; the one other argument is the question.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

from tessera.chat import Completion, Delta, TokenLogprob
from tessera.cli.history import Conversation, HistoryError, default_file, keep, kept_turn, last
from tessera.cli.parser import names_image
from tessera.cli.session import Session, print_json, stopping_is_said, user_message, write_reply
from tessera.errors import UsageError
from tessera.sampling import Grammar, sampling_params_from_dict

SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
SIGNATURE_BYTES = 4
SPLICE_F_NONBLOCK = 2


@dataclass(frozen=True)
class Answering:
    """How the answer is shown, and where the exchange is saved (no file: nowhere)."""

    as_json: bool
    log: Path | None
    continues: bool


def run_ask(
    session: Session,
    words: Sequence[str],
    sources: list[str],
    system: str | None,
    params: Mapping[str, Any],
    *,
    grammar: Grammar | None,
    answering: Answering,
) -> None:
    question, sources = question_and_images(words, sources)
    if answering.log is not None and answering.log.is_dir():
        raise UsageError(f"--log {answering.log} is a folder; name a file in it, or give --no-log.")
    wanted = sampling_params_from_dict({**params, "grammar": grammar})
    conversation, session = _begun(answering, session)
    if conversation.messages and system:
        raise UsageError("--system belongs to a conversation's first question; leave it out, or leave out --continue.")
    images = [session.image(source) for source in sources]
    before = [*([{"role": "system", "content": system}] if system else []), *conversation.messages]
    messages: list[Any] = [*before, user_message(question, images)]
    model = session.open()
    if "-" not in (*words, *sources) and _holds_unread_image():
        session.note("standard input holds an image that was not read; give it with -i -")
    with stopping_is_said():
        if answering.as_json:
            reply = model.chat(messages, wanted)
            print_json(completion_to_dict(reply))
        else:
            reply = Completion.from_deltas(_written(session, model, messages, wanted), "")
            if reply.logprobs:
                write_reply("\n" + "".join(f"{logprob_row(entry)}\n" for entry in reply.logprobs))
            if reply.finish_reason == "length":
                session.note("the reply was cut at the token limit (--max-tokens, or the context)")
    if answering.log is not None:
        exchange = [kept_turn(question, images), {"role": "assistant", "content": reply.text}]
        if system:
            exchange.insert(0, {"role": "system", "content": system})
        _keep(session, answering.log, conversation, exchange)


def question_and_images(words: Sequence[str], sources: Sequence[str]) -> tuple[str, list[str]]:
    """Return the question, from the arguments or standard input, and the images in order; raises UsageError."""
    images = [*sources, *(word for word in words if word != "-" and names_image(word))]
    rest = [word for word in words if word == "-" or not names_image(word)]
    if len(rest) > 1:
        if folder := next((word for word in rest if _is_folder(word)), None):
            raise UsageError(f"{folder} is a folder; name images in it, such as {folder.rstrip('/')}/*.png.")
        shown = " and ".join(repr(word) for word in rest[:2])
        raise UsageError(
            f"{len(rest)} words are neither images nor one question ({shown}); put the question in quotes, and check "
            "the spelling of images."
        )
    if [*rest, *images].count("-") > 1:
        raise UsageError("the question and the images name '-' more than once; only one can be standard input.")
    if not rest and (sys.stdin.isatty() or "-" in images):
        raise UsageError("Missing argument QUESTION: write it after `ask`, in quotes, or pipe it in.")
    question = _read_question() if rest in ([], ["-"]) else rest[0]
    if not question.strip() and not rest:
        raise UsageError("Missing argument QUESTION: write it after `ask`, in quotes, or pipe it in.")
    if not question.strip():
        raise UsageError("the question is empty; write it after `ask`, or pipe it in with -.")
    return question, images


def _is_folder(word: str) -> bool:
    try:
        return Path(word).is_dir()
    except (OSError, ValueError):  # too long for a path, or contains NUL
        return False


def grammar_of(schema: str | None, choices: Sequence[str], regex: str | None) -> Grammar | None:
    """Build the grammar for --schema, --choice or --regex; raises UsageError."""
    given = [f"--{name}" for name, value in (("schema", schema), ("choice", choices), ("regex", regex)) if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both say what the reply must look like; keep one.")
    if schema is not None:
        return Grammar("json_schema", _schema_text(schema))
    if choices:
        return Grammar("choice", json.dumps(list(choices)))
    return None if regex is None else Grammar("regex", regex)


def _schema_text(schema: str) -> str:
    inline = schema.lstrip().startswith("{")
    if not inline and _is_folder(schema):
        raise UsageError(f"--schema {schema} is a folder; name a file in it with a JSON schema.")
    try:
        text = schema if inline else Path(schema).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--schema {schema} cannot be read ({reason}); name a file with a JSON schema.") from error
    try:
        if isinstance(json.loads(text), dict):
            return text
    except ValueError as error:
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "its text"
        raise UsageError(f"--schema {schema[:80]} is not valid JSON ({where}); correct it.") from error
    raise UsageError(f"--schema {schema[:80]} is not a JSON object, which a schema must be.")


def _begun(answering: Answering, session: Session) -> tuple[Conversation, Session]:
    """Return the conversation and the session with its model; a resumed one keeps its model."""
    if not answering.continues:
        return Conversation(session.model), session
    if answering.log is None:
        raise UsageError("--continue and --no-log exclude each other: the conversation would lack this answer.")
    found = last(answering.log)
    model = session.model or found.model
    return replace(found, model=model), session.with_model(model)


def _written(session: Session, model: Any, messages: list[Any], wanted: Any) -> list[Delta]:
    """Write the reply as it arrives, and always end its line; returns its pieces."""
    deltas: list[Delta] = []
    try:
        for delta in session.stream(model, messages, wanted):
            deltas.append(delta)
            write_reply(delta.text)
    finally:
        if deltas:
            print(flush=True)
    return deltas


def _keep(session: Session, file: Path, conversation: Conversation, exchange: list[dict[str, Any]]) -> None:
    """Save the exchange; unless it was requested, a failing disk is worth only a note."""
    try:
        keep(file, conversation, exchange)
    except HistoryError as error:
        if file != default_file():
            raise
        session.note(str(error))


def _read_question() -> str:
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the question on standard input is not UTF-8 (byte {error.start}); convert it, or use -i - for an image."
        ) from error


def _holds_unread_image() -> bool:
    """Return True if a pipe or file on standard input begins like an image; consumes no byte.

    A loop may feed several commands from one standard input, so it is peeked at and never read.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode):
            head = os.pread(number, SIGNATURE_BYTES, os.lseek(number, 0, os.SEEK_CUR))
        else:
            head = _peek(number) if stat.S_ISFIFO(mode) else b""
    except (OSError, ValueError):
        return False
    return head.startswith(SIGNATURES)


def _peek(pipe: int) -> bytes:
    """Return a pipe's first bytes on Linux, which can copy them into another pipe; elsewhere none."""
    tee = getattr(ctypes.CDLL(None), "tee", None)
    if tee is None:
        return b""
    read_end, write_end = os.pipe()
    try:
        copied = tee(pipe, write_end, ctypes.c_size_t(SIGNATURE_BYTES), SPLICE_F_NONBLOCK)
        return os.read(read_end, copied) if copied > 0 else b""
    finally:
        os.close(read_end)
        os.close(write_end)


def logprob_row(entry: TokenLogprob) -> str:
    """Example: "71       99.2 %   70 0.4 %   77 0.1 %"."""
    chosen = f"{_share(entry.logprob)}"
    others = [f"{_token(text)} {_share(value)}" for _, text, value in entry.top]
    return "  ".join([f"{_token(entry.token):<12}{chosen:>8}", *others]).rstrip()


def _token(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _share(logprob: float | None) -> str:
    return "" if logprob is None else f"{100 * exp(logprob):.1f} %"


def completion_to_dict(completion: Completion) -> dict[str, Any]:
    """Build the fields of `--json`; log-probabilities only if requested."""
    fields: dict[str, Any] = {
        "text": completion.text,
        "usage": asdict(completion.usage),
        "timings": asdict(completion.timings),
        "finish_reason": completion.finish_reason,
        "model": completion.model,
    }
    if completion.logprobs:
        fields["logprobs"] = [
            {
                "token": entry.token,
                "logprob": entry.logprob,
                "top": [{"token": text, "logprob": value} for _, text, value in entry.top],
            }
            for entry in completion.logprobs
        ]
    return fields
