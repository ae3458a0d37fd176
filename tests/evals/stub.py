"""A model that answers by a function of the conversation, for tests of what stands above models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tessera.chat import ChatModel, Completion, Conversation, Delta, FinishReason, Timings, Usage
from tessera.errors import TesseraError
from tessera.sampling import SamplingParams

Answering = Callable[[Conversation, SamplingParams], str | TesseraError]


class Stub(ChatModel):
    """Answers at once, and keeps what it was asked."""

    model_name = "stub"

    def __init__(self, answer: Answering, finish: FinishReason = "stop") -> None:
        self.answer, self.finish = answer, finish
        self.asked: list[tuple[Conversation, SamplingParams]] = []

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Any = ()
    ) -> Iterator[Delta]:
        raise NotImplementedError

    def each(
        self,
        conversations: Iterable[Conversation],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        tools: Any = (),
    ) -> Iterator[Completion | TesseraError]:
        given = iter(params) if isinstance(params, Iterable) else None
        for messages in conversations:
            wanted = SamplingParams() if given is None else next(given)
            if tools:
                next(iter(tools), None)
            self.asked.append((messages, wanted))
            reply = self.answer(messages, wanted)
            if isinstance(reply, TesseraError):
                yield reply
            else:
                usage = Usage(prompt_tokens=10, completion_tokens=len(reply.split()))
                yield Completion(reply, self.finish, usage, Timings(0.0, 0.1, 0.2), self.model_name)

    def close(self) -> None:
        pass
