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
    if question == "-":
        if "-" in sources:
            raise UsageError("both the question and a picture are '-'; only one of them can be standard input.")
        question = sys.stdin.read().strip()
    if not question:
        raise UsageError("the question is empty; write it after `ask`, or pipe it in with -.")
    wanted = sampling_params_from_dict(params)
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    messages.append(user_message(question, sources))
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


def completion_to_dict(completion: Completion) -> dict[str, Any]:
    """The fields of `--json`."""
    return {
        "text": completion.text,
        "usage": asdict(completion.usage),
        "timings": asdict(completion.timings),
        "finish_reason": completion.finish_reason,
        "model": completion.model,
    }
