"""The served engine as a ChatModel, for work in threads: until it is told to stop, and for batches only in quiet times.

Its requests take the same way as a client's: pictures in child processes, the key's own cache. None of a batch starts
while any request waits, and one place in the engine is never a batch's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace

from tessera.chat import (
    ChatModel,
    Completion,
    Conversation,
    Delta,
    EachTools,
    Glance,
    Head,
    ToolDefinitions,
    Tools,
    asked,
)
from tessera.errors import EngineBusyError, EngineDeadError, TesseraError
from tessera.messages import parse_messages
from tessera.sampling import SamplingParams
from tessera.server.backend import Backend, LocalBackend
from tessera.server.thoughts import ThoughtReader
from tessera.tool_calls import ToolCallReader

POLL_S = 0.02  # between two looks whether there is room
MAX_AHEAD = 64  # replies that wait for one before them
MAX_PAGES_AHEAD = 4  # of one document that somebody waits for


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
class ServedModel(ChatModel):
    """A ChatModel for one thread; `stopped` says that no more may be asked. With a `gate`, a batch's.

    `adapter` computes what is asked, unless a question's parameters name another.
    """

    backend: Backend
    loop: asyncio.AbstractEventLoop
    salt: str
    stopped: Callable[[], bool]
    gate: Gate | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        self.model_name = self.backend.model_name
        self._open: set[Future[Completion | TesseraError]] = set()
        self._is_asking = False  # in the place of a question that asks others before it, such as which way is up

    def close(self) -> None:
        """End what is being answered; the engine is the server's."""
        self.abort()

    def abort(self) -> None:
        """End what is being answered, too."""
        for each in tuple(self._open):
            each.cancel()

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        """Yield the reply, in one piece."""
        for reply in self.each([messages], params, tools=tools):
            if isinstance(reply, TesseraError):
                raise reply
            yield Delta(
                text=reply.text, token_ids=reply.token_ids, logprobs=reply.logprobs, finish_reason=reply.finish_reason,
                usage=reply.usage, timings=reply.timings, tool_calls=reply.tool_calls, reasoning=reply.reasoning,
            )  # fmt: skip

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
        waiting: deque[Future[Completion | TesseraError]] = deque()
        questions, more, gate = asked(conversations, params, tools), True, None if self._is_asking else self.gate
        try:
            while waiting or more:
                more = more and not self.stopped()
                if more and len(waiting) < self._most and (gate is None or gate.try_enter()):
                    more = self._ask_next(questions, waiting, gate)
                elif waiting:
                    wait(list(waiting)[:1], POLL_S)
                else:
                    time.sleep(POLL_S)
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
        except CancelledError:
            raise JobStoppedError("the server ends.") from None
        finally:
            for each in waiting:
                each.cancel()
        if self.stopped():
            raise JobStoppedError("the job was told to stop.")

    def locate(
        self,
        messages: Conversation,
        reply: Completion | str,
        spans: Sequence[tuple[int, int]],
        heads: Sequence[Head] = (),
    ) -> list[list[tuple[Glance, ...]]] | None:
        if not isinstance(self.backend, LocalBackend) or self.stopped():
            return None
        return self.backend.llm.locate(messages, reply, spans, heads, adapter=self.adapter)

    def embed(self, messages: Conversation) -> list[float] | None:
        if not isinstance(self.backend, LocalBackend) or self.stopped():
            return None
        return self.backend.llm.embed(messages, cache_salt=self.salt)

    @property
    def fingerprint(self) -> str:
        return self.backend.llm.fingerprint if isinstance(self.backend, LocalBackend) else self.model_name

    @property
    def _most(self) -> int:
        return MAX_PAGES_AHEAD if self.gate is None else MAX_AHEAD

    def _ask_next(
        self,
        questions: Iterator[tuple[Conversation, SamplingParams, Tools]],
        waiting: deque[Future[Completion | TesseraError]],
        gate: Gate | None,
    ) -> bool:
        """Ask the next question in the place just taken; returns False if there is none."""

        def leave(_: object = None) -> None:
            if gate is not None:
                gate.leave()

        was_asking, self._is_asking = self._is_asking, True
        try:
            question = next(questions, None)
        except BaseException:
            leave()
            raise
        finally:
            self._is_asking = was_asking
        if question is None:
            leave()
            return False
        asking = asyncio.run_coroutine_threadsafe(self._answer(*question), self.loop)
        self._open.add(asking)
        asking.add_done_callback(self._open.discard)
        asking.add_done_callback(leave)
        waiting.append(asking)
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
        params = replace(params, adapter=params.adapter or self.adapter)
        prompt, wanted = await self.backend.prepare(parse_messages(messages), params, tools, self.salt)
        tokenizer = self.backend.tokenizer
        kind: type[ToolCallReader | ThoughtReader] = ToolCallReader if tools.definitions else ThoughtReader
        replies = self.backend.start([(prompt, wanted)], cache_salt=self.salt, reader=lambda _: kind(tokenizer))
        deltas: list[Delta] = []
        gate = self.gate or Gate(self.backend)
        gate.num_beginning += 1  # only in the event loop
        try:
            async for _, delta in replies:
                gate.num_beginning -= not deltas
                deltas.append(delta)
        finally:
            gate.num_beginning -= not deltas
            replies.close()
        if (error := deltas[-1].error) is not None:
            raise error
        if deltas[-1].finish_reason == "abort":
            raise JobStoppedError("the engine ends.")
        return Completion.from_deltas(deltas, self.model_name)
