"""Several conversations at once with a model that answers one a call: each in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial

from tessera.chat import ChatModel, Completion, Conversation, EachTools, asked
from tessera.errors import TesseraError
from tessera.sampling import SamplingParams

MAX_AHEAD = 32  # replies that wait for one before them


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
        """Yield one reply, or the error instead of it, for each conversation, in order.

        Replies wait for a slower one before them, and meanwhile further conversations begin, up to a limit.
        """
        waiting: deque[Future[Completion | TesseraError]] = deque()
        for messages, wanted, offered in asked(conversations, params, tools):
            while len(waiting) >= self.concurrency:
                open_ones = [each for each in waiting if not each.done()]
                if waiting[0].done():
                    yield waiting.popleft().result()
                elif len(open_ones) < self.concurrency and len(waiting) < self.concurrency + MAX_AHEAD:
                    break
                else:
                    wait(open_ones if len(waiting) < self.concurrency + MAX_AHEAD else [waiting[0]],
                         return_when=FIRST_COMPLETED)  # fmt: skip
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
