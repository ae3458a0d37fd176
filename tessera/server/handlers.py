"""The steps of every generating route: check, prepare, start; then respond whole or in events.

Requests take the same path on every route, and a client that leaves ends its request at once: while it
waits for a worker, in the queue, in prefill, or between two tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tessera.chat import Completion, Delta, Timings, Tools, Usage
from tessera.errors import ConversationError, TesseraError, UsageError
from tessera.fetch import Stop
from tessera.messages import Message
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams
from tessera.server.backend import Backend
from tessera.server.document_parts import documents_in
from tessera.server.errors import BadRequestError, error_object, unexpected_error
from tessera.server.events import KEEP_ALIVE, Events
from tessera.server.files import FileStore
from tessera.server.metrics import Metrics
from tessera.server.names import Names
from tessera.server.replies import DeltaReader, Replies
from tessera.server.schemas import Sampling, StreamOptions
from tessera.server.settings import Settings
from tessera.server.stream import EventStream, client_left
from tessera.server.structured import uses_deprecated
from tessera.server.thoughts import ThoughtReader
from tessera.server.translate import choices_of
from tessera.server.wire import usage_object
from tessera.tool_calls import ToolCallReader

if TYPE_CHECKING:
    from tessera.server.batches import Batches
    from tessera.server.documents import OcrService

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class ClientLeftError(Exception):
    """The client disconnected; there is nobody to answer."""


@dataclass(frozen=True)
class Handlers:
    """Runs requests for the routes."""

    backend: Backend
    settings: Settings
    metrics: Metrics
    names: Names
    files: FileStore
    batches: Batches
    ocr: OcrService

    def check(self, body: Sampling) -> None:
        """Refuse what can be refused before any image is read."""
        check_request(body, self.names, self.settings.max_completions)

    def check_model(self, name: str | None) -> None:
        self.names.adapter(name)

    @property
    def calls_tools(self) -> bool:
        """Return True if the model's format has tool calls."""
        try:
            ToolCallReader(self.backend.tokenizer)
        except UsageError:
            return False
        return True

    async def with_pages(self, messages: list[Message], request: Request) -> list[Message]:
        """Messages with the pages of the documents in them, read in a thread; the key's own files only."""
        if not documents_in(messages):
            return messages
        stop = Stop()
        work = self.ocr.threads.start(partial(self.ocr.with_pages, messages, str(request.state.tenant), stop))
        try:
            return await unless_left(request, asyncio.shield(work))
        finally:
            stop.set()

    async def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        tools: Tools,
        body: Sampling,
        request: Request,
        *,
        truncate: bool = False,
        thoughts: bool = False,
    ) -> tuple[int, Replies]:
        """Start a chat; return the prompt's length and the replies, their `thoughts` apart if that is wanted."""
        preparing = self.backend.prepare(messages, params, tools, self._salt(body, request), truncate=truncate)
        prompt, params = await unless_left(request, preparing)
        kind: type[ToolCallReader | ThoughtReader] | None = ThoughtReader if thoughts else None
        kind = ToolCallReader if tools.definitions else kind  # the grammar of tools leaves no room for thoughts
        reader = None if kind is None else (lambda _: kind(self.backend.tokenizer))
        return len(prompt.ids), self.start([prompt], params, body, request, reader)

    def start(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        body: Sampling,
        request: Request,
        reader: Callable[[Prompt], DeltaReader] | None = None,
    ) -> Replies:
        each = choices_of(replace(params, adapter=self.names.adapter(body.model)), body.n or 1)
        wanted = [(prompt, params) for prompt in prompts for params in each]
        return self.backend.start(wanted, cache_salt=self._salt(body, request), reader=reader)

    def _salt(self, body: Sampling, request: Request) -> str:
        """The cache salt that isolates API keys, and tenants that share one: neither may learn what others asked."""
        tenant = self.tenant_of(request)
        return f"{tenant}/{body.cache_salt or ''}" if tenant else body.cache_salt or ""

    def tenant_of(self, request: Request) -> str:
        """The cache salt of an API key."""
        return "" if self.settings.share_cache else request.state.tenant

    async def collect(self, replies: Replies, request: Request) -> list[Completion]:
        deltas: list[list[Delta]] = [[] for _ in range(len(replies))]

        async def gather() -> None:
            async for index, delta in replies:
                deltas[index].append(delta)

        try:
            await unless_left(request, gather())
        finally:
            replies.close()
        for each in deltas:
            self._ended(each[-1], request)
        for each in deltas:
            if (error := each[-1].error) is not None:
                raise error
        return [Completion.from_deltas(each, self.names.own[0]) for each in deltas]

    def stream(
        self, replies: Replies, events: Events, prompt_tokens: int, body: Sampling, request: Request
    ) -> Response:
        """Respond in events."""
        return EventStream(self._events(replies, events, prompt_tokens, body, request), notes_on(body))

    async def _events(
        self, replies: Replies, events: Events, prompt_tokens: int, body: Sampling, request: Request
    ) -> AsyncIterator[bytes]:
        """Stream a reply; a failure is sent as an event, with no [DONE] after it."""
        options = body.stream_options or StreamOptions()
        usages = [Usage(prompt_tokens=prompt_tokens)] * len(replies)
        try:
            for index in range(len(replies)):
                yield events.opening(index)
            while not replies.ended:
                arrived = await replies.next(self.settings.keep_alive_s)
                if not arrived:
                    yield KEEP_ALIVE
                for number, (index, delta) in enumerate(arrived, 1):
                    if delta.usage is not None:
                        usages[index] = delta.usage
                    elif options.continuous_usage_stats:
                        written = usages[index].completion_tokens + len(delta.token_ids)
                        usages[index] = replace(usages[index], completion_tokens=written)
                    # Mistral's clients expect the usage at the end unless they ask for it in its own chunk.
                    last = replies.ended and number == len(arrived)
                    shown = options.continuous_usage_stats or (last and not options.include_usage)
                    if delta.error is not None:
                        self._ended(delta, request)
                        raise delta.error
                    if delta.text or delta.reasoning or delta.logprobs or delta.tool_calls or delta.finish_reason:
                        yield events.delta(index, delta, usage_object(usages) if shown else None)
                    if delta.finish_reason:
                        self._ended(delta, request)
            yield events.closing(usage_object(usages) if options.include_usage else None)
        except TesseraError as error:
            yield events.failure(error_object(error))
        except Exception:
            logger.exception("request %s failed while it was streamed", request.state.request_id)
            yield events.failure(error_object(unexpected_error()))
        finally:
            replies.close()

    def _ended(self, last: Delta, request: Request) -> None:
        """Count a finished request, and leave its numbers, without its content, for the access log."""
        self.metrics.observe(last)
        usage, timings = last.usage or Usage(), last.timings or Timings()
        log = request.state.log
        log["prompt_tokens"], log["image_tokens"] = usage.prompt_tokens, usage.image_tokens
        log["cached_tokens"], log["finish_reason"] = usage.cached_tokens, last.finish_reason
        log["completion_tokens"] = log.get("completion_tokens", 0) + usage.completion_tokens
        for name in ("queue_s", "first_token_s", "decode_s"):
            log[name] = round(getattr(timings, name), 4)


def check_request(body: Sampling, names: Names, max_completions: int) -> None:
    """Refuse unsupported fields, other models, and too many choices."""
    body.check_extra_fields()
    names.adapter(body.model)
    if (body.n or 1) > max_completions:
        raise BadRequestError(
            f"n is {body.n} and the limit is {max_completions} (max_completions); ask for fewer.", param="n"
        )


@contextmanager
def field_named(field: str) -> Iterator[None]:
    """Name the field in errors about a conversation as a whole; a message's error already has its place."""
    try:
        yield
    except ConversationError as error:
        raise BadRequestError(str(error), param=error.param or field) from error


def notes_on(body: Sampling) -> dict[str, str]:
    """Headers about the request itself: a field it uses is deprecated (RFC 9745)."""
    return {"Deprecation": "@1735689600"} if uses_deprecated(body) else {}


async def unless_left(request: Request, work: Awaitable[Result]) -> Result:
    """Await `work`; if the client leaves first, cancel it and raise ClientLeftError."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(client_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
