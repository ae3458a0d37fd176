"""The engine as seen by the server: worker threads build prompts, replies are awaited.

The event loop never decodes an image, builds a prompt or waits for a step. Nothing here knows HTTP:
messages come in, deltas go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from tessera.chat import ToolDefinitions, Tools
from tessera.engine.adapters import Adapters
from tessera.engine.config import EngineConfig
from tessera.engine.tally import Stats
from tessera.errors import EngineBusyError
from tessera.llm import LLM
from tessera.messages import Message
from tessera.model.config import VisionConfig
from tessera.prompt import Prompt, Tokenizer, reading
from tessera.sampling import SamplingParams
from tessera.server.images import Images, Load
from tessera.server.replies import DeltaReader, Replies
from tessera.server.truncation import longest_that_fits

Result = TypeVar("Result")

REPLY_TOKENS = 1024  # room left by a truncated conversation, unless the request sets a number


class Backend(Protocol):
    """The interface that answers the server's requests: an engine in this process, or remote ones."""

    model_name: str
    tokenizer: Tokenizer
    vision: VisionConfig
    config: EngineConfig

    @property
    def adapters(self) -> Adapters:
        """The adapters that requests may name."""

    @property
    def alive(self) -> bool:
        """Return True while requests are accepted."""

    @property
    def is_sound(self) -> bool:
        """Return False once the model has computed invalid numbers: no request can be answered then."""

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last began a step; far more than one step takes means it is stuck."""

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests."""

    def stats(self) -> Stats: ...

    def open(self) -> None:
        """Start serving in the running event loop."""

    def abort(self) -> None:
        """End all requests now, and accept no more."""

    def close(self) -> None:
        """Abort, and release threads and processes; may be called twice."""

    async def prepare(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        tools: Tools,
        cache_salt: str = "",
        *,
        truncate: bool = False,
    ) -> tuple[Prompt, SamplingParams]:
        """Build the conversation's prompt, images decoded, and the parameters with its tools' grammar.

        With `truncate`, the oldest turns are dropped until the rest fits.
        """

    async def prompt(self, messages: Sequence[Message], tools: ToolDefinitions, cache_salt: str = "") -> Prompt:
        """Build the conversation's prompt alone."""

    async def plain(
        self, texts: Sequence[str | list[int]], params: SamplingParams
    ) -> tuple[list[Prompt], SamplingParams]:
        """Build prompts without the chat format from texts or token ids, and the parameters with their grammar."""

    async def encode(self, text: str, *, bos: bool) -> list[int]:
        """Tokenize a text."""

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run in a worker thread; raises EngineBusyError if too many calls are waiting for one."""

    def start(
        self,
        wanted: Sequence[tuple[Prompt, SamplingParams]],
        *,
        cache_salt: str = "",
        reader: Callable[[Prompt], DeltaReader] | None = None,
    ) -> Replies:
        """Queue a request for each pair, each with its own `reader` of deltas; if one fails, abort all."""


class LocalBackend:
    """An engine in this process.

    `workers` threads build prompts; images are prepared separately. Each handles `max_preparing` requests at once.
    There are many threads because most of them only wait for a slow grammar.
    """

    def __init__(self, llm: LLM, *, workers: int = 16, max_preparing: int = 64) -> None:
        self.llm = llm
        self.model_name, self.config = llm.model_name, llm.config
        self.tokenizer, self.vision = llm.tokenizer, llm.vision
        self.images = Images(llm.limits, llm.vision, max_bytes=llm.config.max_pixel_bytes, max_waiting=max_preparing)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="tessera-prepare")
        self._max_preparing = max_preparing
        self._preparing = 0

    @property
    def adapters(self) -> Adapters:
        return self.llm.adapters

    @property
    def alive(self) -> bool:
        return self.llm.alive

    @property
    def is_sound(self) -> bool:
        return self.llm.is_sound

    @property
    def silent_s(self) -> float:
        return self.llm.silent_s

    @property
    def num_waiting(self) -> int:
        return self.llm.num_waiting

    def stats(self) -> Stats:
        return self.llm.stats()

    def open(self) -> None:
        self.images.start()

    def abort(self) -> None:
        self.llm.close()

    async def prepare(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        tools: Tools,
        cache_salt: str = "",
        *,
        truncate: bool = False,
    ) -> tuple[Prompt, SamplingParams]:
        bind = partial(self.llm.apply_tools, params, tools)
        write = partial(self._truncated, params=params) if truncate else self.llm.prepare
        images = [image for message in messages for image in message.images]
        if not images:
            return await self.call(lambda: (write(messages, tools.definitions), bind()))
        if truncate:
            images = images[-self.config.max_images_per_prompt :]  # never more than these are kept
        else:
            await self.call(self.llm.parse, messages, tools.definitions)
        bound = await self.call(bind)
        load = await self.images.load(images, cache_salt)
        return await self.call(write, messages, tools.definitions, load), bound

    def _truncated(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        load: Load | None = None,
        *,
        params: SamplingParams,
    ) -> Prompt:
        limit = self.config.max_model_len
        room = limit - min(params.max_tokens or REPLY_TOKENS, limit // 4)
        return longest_that_fits(messages, lambda kept: self.llm.prepare(kept, tools, load), room)

    async def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], cache_salt: str = ""
    ) -> Prompt:
        await self.call(self.llm.parse, messages, tools)
        load = await self.images.load([image for message in messages for image in message.images], cache_salt)
        return await self.call(self.llm.prepare, messages, tools, load)

    async def plain(
        self, texts: Sequence[str | list[int]], params: SamplingParams
    ) -> tuple[list[Prompt], SamplingParams]:
        return await self.call(self._plain, texts, params)

    def _plain(self, texts: Sequence[str | list[int]], params: SamplingParams) -> tuple[list[Prompt], SamplingParams]:
        with reading():  # one time limit for all texts
            return [self.llm.prepare_text(text) for text in texts], self.llm.apply_tools(params)

    async def encode(self, text: str, *, bos: bool) -> list[int]:
        return await self.call(self.llm.encode, text, bos)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        limit = self.config.max_queued_requests
        if self._preparing >= self._max_preparing or self.num_waiting >= limit:
            raise EngineBusyError(
                f"{self._preparing} requests are being prepared (at most {self._max_preparing}) and {self.num_waiting} "
                f"wait (at most {limit}); send the request again later."
            )
        self._preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)
        finally:
            self._preparing -= 1

    def start(
        self,
        wanted: Sequence[tuple[Prompt, SamplingParams]],
        *,
        cache_salt: str = "",
        reader: Callable[[Prompt], DeltaReader] | None = None,
    ) -> Replies:
        replies = Replies()
        try:
            for prompt, params in wanted:
                submit = partial(self.llm.start, prompt, params, cache_salt=cache_salt)
                replies.add(submit, None if reader is None else reader(prompt))
        except BaseException:
            replies.close()
            raise
        return replies

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
        self.images.close()
        self.llm.close()
