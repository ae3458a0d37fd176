"""`tessera ask`: one question, one streamed answer or one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tessera.chat import Completion, sampling_params_from_dict
from tessera.cli.session import Session, user_message
from tessera.errors import UsageError


def run_ask(
    session: Session, question: str, sources: list[str], system: str | None, params: Mapping[str, Any], *, as_json: bool
) -> None:
    if [question, *sources].count("-") > 1:
        raise UsageError("the question and the pictures name '-' more than once; only one can be standard input.")
    if question == "-":
        question = _read_question()
    if not question:
        raise UsageError("the question is empty; write it after `ask`, or pipe it in with -.")
    wanted = sampling_params_from_dict(params)
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    messages.append(user_message(question, [session.picture(source) for source in sources]))
    model = session.open()
    if as_json:
        print(json.dumps(completion_to_dict(model.chat(messages, wanted)), ensure_ascii=False))
        return
    for delta in model.stream(messages, wanted):
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        if delta.finish_reason == "length":
            session.note("the reply was cut at the token limit (--max-tokens, or the context)")
    print()


def _read_question() -> str:
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the question on standard input is not UTF-8 (byte {error.start}); convert it, or use -i - for a picture."
        ) from error


def completion_to_dict(completion: Completion) -> dict[str, Any]:
    """The fields of `--json`."""
    return {
        "text": completion.text,
        "usage": asdict(completion.usage),
        "timings": asdict(completion.timings),
        "finish_reason": completion.finish_reason,
        "model": completion.model,
    }
