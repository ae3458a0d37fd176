"""A model without weights that answers what it was asked, and workers that can be killed while it does."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tessera.chat import (
    Completion,
    Conversation,
    Delta,
    Timings,
    ToolDefinitions,
    Tools,
    Usage,
)
from tessera.documents.journal import Item, Journal
from tessera.documents.runner import Done, run
from tessera.errors import TesseraError
from tessera.messages import Message, parse_messages
from tessera.sampling import SamplingParams
from tessera.threads import ThreadedChatModel

ANSWERED = Usage(prompt_tokens=3, completion_tokens=2)


class Stub(ThreadedChatModel):
    """Answers with `answer` of the last text, after `seconds`; `concurrency` questions at once."""

    model_name = "stub"

    def __init__(
        self, answer: Callable[[str], str] = lambda text: f"<{text}>", *, seconds: float = 0.0, concurrency: int = 4
    ) -> None:
        self.answer, self.seconds, self.concurrency = answer, seconds, concurrency
        self.asked: list[str] = []

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        question = str(parse_messages(messages)[-1].content[-1])
        self.asked.append(question)
        time.sleep(self.seconds)
        yield Delta(self.answer(question))
        yield Delta("", finish_reason="stop", usage=ANSWERED, timings=Timings())

    def close(self) -> None:
        pass


def ask(item: Item) -> tuple[Conversation, SamplingParams]:
    return [Message("user", (item.payload,))], SamplingParams()


def accept(item: Item, reply: Completion | TesseraError) -> Done:
    if isinstance(reply, TesseraError):
        return Done(json.dumps([item.id, reply.code]), failed=True)
    return Done(json.dumps([item.id, reply.text]))


def work(path: Path, seconds: float, poison: str, most: int) -> None:
    """Answer the journal's items, in a process of its own: one payload kills it, and it stays at `most` answers."""
    answers = itertools.count(1)

    def answer(text: str) -> str:
        if text == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if next(answers) > most:
            time.sleep(3600)
        return f"<{text}>"

    with Journal.open(path, {"input": "test"}) as journal:
        run(journal, Stub(answer, seconds=seconds), ask, accept)
