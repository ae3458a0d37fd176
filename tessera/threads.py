"""Several conversations at once with a model that answers one a call: each in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from tessera.chat import ChatModel, Completion, Conversation, EachTools, asked
from tessera.errors import TesseraError
from tessera.sampling import SamplingParams


class ThreadedChatModel(ChatModel):
    """A model that keeps `concurrency` conversations in flight, each in a thread."""

    concurrency: int

    def each(
        self,
        conversations: Iterable[Conversation],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        tools: EachTools = (),
    ) -> Iterator[Completion | TesseraError]:
        """Yield one reply, or the error instead of it, for each conversation, in order."""
        waiting: deque[Future[Completion | TesseraError]] = deque()
        for messages, wanted, offered in asked(conversations, params, tools):
            if len(waiting) == self.concurrency:
                yield waiting.popleft().result()
            waiting.append(_started(partial(self.chat, messages, wanted, tools=offered)))
        while waiting:
            yield waiting.popleft().result()


def _started(chat: Callable[[], Completion]) -> Future[Completion | TesseraError]:
    """Ask in a thread of its own that nobody has to wait for, not even the interpreter at its exit."""
    reply: Future[Completion | TesseraError] = Future()

    def ask() -> None:
        try:
            reply.set_result(chat())
        except TesseraError as error:
            reply.set_result(error)
        except BaseException as error:
            reply.set_exception(error)

    threading.Thread(target=ask, name="tessera-ask", daemon=True).start()
    return reply
