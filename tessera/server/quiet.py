"""The engine as a batch uses it: only where nobody waits, and only until it is told to stop.

A batch's requests take the same way as a client's (pictures in child processes, the key's own cache), but none
starts while any request waits, and one place in the engine is never theirs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass

from tessera.chat import (
    ChatModel,
    Completion,
    Conversation,
    Delta,
    EachTools,
    ToolDefinitions,
    Tools,
    asked,
)
from tessera.errors import EngineBusyError, EngineDeadError, TesseraError
from tessera.messages import parse_messages
from tessera.sampling import SamplingParams
from tessera.server.backend import Backend
from tessera.tool_calls import ToolCallReader

POLL_S = 0.02  # between two looks whether there is room
MAX_AHEAD = 64  # replies that wait for one before them


class JobStoppedError(TesseraError):
    """The job was cancelled, is over its time, or the server ends."""


class Gate:
    """Counts the batches' requests in the engine, and those of them that have not begun their replies."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._places = max(1, backend.config.max_num_seqs - 1)
        self._taken = self.num_beginning = 0
        self._lock = threading.Lock()

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits."""
        with self._lock:
            if self._taken >= self._places or self._backend.num_waiting > self.num_beginning:
                return False
            self._taken += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._taken -= 1


@dataclass
class QuietModel(ChatModel):
    """A ChatModel for one job's thread; `stopped` says that no more may be asked."""

    backend: Backend
    loop: asyncio.AbstractEventLoop
    gate: Gate
    salt: str
    stopped: Callable[[], bool]

    def __post_init__(self) -> None:
        self.model_name = self.backend.model_name
        self._waiting: deque[Future[Completion | TesseraError]] = deque()

    def close(self) -> None:
        """End what is being answered; the engine is the server's."""
        self.abort()

    def abort(self) -> None:
        """End what is being answered, too."""
        for each in tuple(self._waiting):
            each.cancel()

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        raise NotImplementedError("a batch's replies are not streamed")

    def each(
        self,
        conversations: Iterable[Conversation],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        tools: EachTools = (),
    ) -> Iterator[Completion | TesseraError]:
        """Yield one reply, or the error instead of it, for each conversation, in order.

        When stopped, the replies that are being written are still yielded; then raises JobStoppedError.
        """
        waiting, questions, more = self._waiting, asked(conversations, params, tools), True
        try:
            while waiting or more:
                more = more and not self.stopped()
                if more and len(waiting) < MAX_AHEAD and self.gate.try_enter():
                    more = self._ask_next(questions)
                elif waiting:
                    wait(list(waiting)[:1], POLL_S)
                else:
                    time.sleep(POLL_S)
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
        except CancelledError:
            raise JobStoppedError("the server ends.") from None
        finally:
            self.abort()
            waiting.clear()
        if self.stopped():
            raise JobStoppedError("the job was told to stop.")

    def _ask_next(self, questions: Iterator[tuple[Conversation, SamplingParams, Tools]]) -> bool:
        """Ask the next question in the place just taken; returns False if there is none."""
        try:
            question = next(questions, None)
        except BaseException:
            self.gate.leave()
            raise
        if question is None:
            self.gate.leave()
            return False
        asking = asyncio.run_coroutine_threadsafe(self._answer(*question), self.loop)
        asking.add_done_callback(lambda _: self.gate.leave())
        self._waiting.append(asking)
        return True

    async def _answer(self, messages: Conversation, params: SamplingParams, tools: Tools) -> Completion | TesseraError:
        try:
            while True:
                try:
                    return await self._completion(messages, params, tools)
                except EngineBusyError:  # people came in between
                    if self.stopped():
                        raise JobStoppedError("the job was told to stop.") from None
                    await asyncio.sleep(POLL_S)
        except (EngineDeadError, JobStoppedError):
            raise
        except TesseraError as error:
            return error

    async def _completion(self, messages: Conversation, params: SamplingParams, tools: Tools) -> Completion:
        prompt, wanted = await self.backend.prepare(parse_messages(messages), params, tools, self.salt)
        reader = (lambda _: ToolCallReader(self.backend.tokenizer)) if tools.definitions else None
        replies = self.backend.start([(prompt, wanted)], cache_salt=self.salt, reader=reader)
        deltas: list[Delta] = []
        self.gate.num_beginning += 1  # only in the event loop
        try:
            async for _, delta in replies:
                self.gate.num_beginning -= not deltas
                deltas.append(delta)
        finally:
            self.gate.num_beginning -= not deltas
            replies.close()
        if (error := deltas[-1].error) is not None:
            raise error
        if deltas[-1].finish_reason == "abort":
            raise JobStoppedError("the engine ends.")
        return Completion.from_deltas(deltas, self.model_name)
