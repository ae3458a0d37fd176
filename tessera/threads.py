"""Several conversations at once with a model that answers one a call: each in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from tessera.chat import Completion, Conversation, Tools
from tessera.errors import TesseraError
from tessera.sampling import SamplingParams


def each_in_threads(
    chat: Callable[[Conversation, SamplingParams, Tools], Completion],
    questions: Iterable[tuple[Conversation, SamplingParams, Tools]],
    concurrency: int,
) -> Iterator[Completion | TesseraError]:
    """Yield each question's reply, or its error, in order, with `concurrency` calls of `chat` at once."""
    waiting: deque[Future[Completion | TesseraError]] = deque()
    for question in questions:
        if len(waiting) == concurrency:
            yield waiting.popleft().result()
        waiting.append(_started(chat, question))
    while waiting:
        yield waiting.popleft().result()


def _started(
    chat: Callable[[Conversation, SamplingParams, Tools], Completion],
    question: tuple[Conversation, SamplingParams, Tools],
) -> Future[Completion | TesseraError]:
    """Ask in a thread of its own that nobody has to wait for, not even the interpreter at its exit."""
    reply: Future[Completion | TesseraError] = Future()

    def ask() -> None:
        try:
            reply.set_result(chat(*question))
        except TesseraError as error:
            reply.set_result(error)
        except BaseException as error:
            reply.set_exception(error)

    threading.Thread(target=ask, name="tessera-ask", daemon=True).start()
    return reply
