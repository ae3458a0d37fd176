"""Pool: several models as one, usually servers with the same model; the death of one loses nothing.

A conversation goes to the model with the fewest in flight, and one with pictures to the model that its pictures
name, which has them cached, unless that one has much more to do. A model that fails is left alone for a while, then
tried with one conversation. What it had goes to the others. A model that is busy is asked again when it wants to be.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tessera.chat import (
    ChatModel,
    Completion,
    Conversation,
    Delta,
    ToolDefinitions,
    Tools,
)
from tessera.errors import (
    EndpointError,
    EngineBusyError,
    EngineDeadError,
    KeyRefusedError,
    NotFiniteError,
    ReplyError,
    TesseraError,
    UnreachableError,
    UsageError,
)
from tessera.messages import images_digest, parse_messages
from tessera.model.config import VisionConfig
from tessera.sampling import SamplingParams
from tessera.threads import ThreadedChatModel

Result = TypeVar("Result")
MAX_MODELS = 1024
PATIENCE_S = 300.0  # how long a conversation waits for any model: a server that starts again loads for minutes
MAX_TRIES = 3  # models that may fail while they answer one conversation, which may be what kills them
FIRST_REST_S, LONGEST_REST_S = 1.0, 60.0  # of a model that failed, doubled with each failure in a row
BUSY_S = 1.0  # before a busy model that does not say when is asked again
SLACK = 4  # conversations that the pictures' own model may have more in flight than another
CONCURRENCY = 8  # of a model that does not say its own


@dataclass(eq=False)
class _Replica:
    """One model and its state; all is read and written under the pool's lock."""

    model: ChatModel
    number: int
    in_flight: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    refuses: bool = False  # our key
    epoch: int = 0  # counts changes of state, so that many conversations report one failure once

    def can_take(self, now: float) -> bool:
        """Return True if it may be asked now; after a failure, with one conversation at a time."""
        return now >= self.rests_until and not (self.failures and self.in_flight)


class Pool(ThreadedChatModel):
    """Models that stand for each other. Give clients `max_retries=0`: the pool itself tries again, elsewhere.

    A conversation waits at most `patience_s` seconds while no model can be asked, then it fails.
    """

    def __init__(self, models: Sequence[ChatModel], *, patience_s: float = PATIENCE_S) -> None:
        if not 0 < len(models) <= MAX_MODELS:
            raise UsageError(f"a pool was given {len(models)} models; give 1 to {MAX_MODELS}.")
        self.patience_s = patience_s
        self._replicas = [_Replica(model, number) for number, model in enumerate(models)]
        self._changed = threading.Condition()
        self._closed = False

    @property
    def model_name(self) -> str:  # type: ignore[override]
        """The name of the first model that tells it. Raises UnreachableError if none does within the patience."""
        return self._ask(lambda model: model.model_name, b"")

    @property
    def vision(self) -> VisionConfig | None:
        """How the models cut images, as the first that answers tells it. Raises UnreachableError."""
        return self._ask(lambda model: getattr(model, "vision", None), b"")

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and reply together, as the first model that answers tells it. Raises UnreachableError."""
        return self._ask(lambda model: getattr(model, "context_tokens", None), b"")

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """Conversations that `each` has in flight."""
        return sum(getattr(each.model, "concurrency", CONCURRENCY) for each in self._replicas)

    def chat(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Completion:
        parsed = parse_messages(messages)
        return self._ask(lambda model: model.chat(parsed, params, tools=tools), images_digest(parsed))

    chat.__doc__ = ChatModel.chat.__doc__

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        """Yield the reply in pieces, tool calls whole; once a piece has come, no other model is asked."""
        parsed = parse_messages(messages)

        def begin(model: ChatModel) -> tuple[Delta | None, Iterator[Delta]]:
            deltas = model.stream(parsed, params, tools=tools)
            return next(deltas, None), deltas

        first, rest = self._ask(begin, images_digest(parsed))
        if first is not None:
            yield first
            yield from rest

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for each in self._replicas:
            each.model.close()

    # Inside ----------------------------------------------------------------------------------

    def _ask(self, call: Callable[[ChatModel], Result], pictures: bytes) -> Result:
        """Call a model, and others until one answers; raises the request's own errors at once."""
        tries, deadline, last = 0, time.monotonic() + self.patience_s, None
        while True:
            replica, epoch = self._taken(pictures, deadline, last)
            try:
                result = call(replica.model)
            except TesseraError as error:
                self._failed(replica, epoch, error)
                if not _is_models_fault(error):
                    raise
                last = error
                # A server that says when to ask again was not killed by this conversation: it loads, or is full.
                if not isinstance(error, UnreachableError | EngineBusyError) and error.retry_after_s is None:
                    tries += 1
                    deadline = time.monotonic() + self.patience_s
                    if tries == MAX_TRIES:
                        raise
            except BaseException:
                self._left(replica)
                raise
            else:
                self._answered(replica)
                return result

    def _taken(self, pictures: bytes, deadline: float, last: TesseraError | None) -> tuple[_Replica, int]:
        """Wait for a model that may be asked, and count a conversation in; raises the last error after the deadline."""
        with self._changed:
            while True:
                if self._closed:
                    raise EndpointError("the pool was closed.")
                now = time.monotonic()
                free = [each for each in self._replicas if each.can_take(now)]
                if free:
                    chosen = choose(free, pictures)
                    chosen.in_flight += 1
                    return chosen, chosen.epoch
                if last is not None and all(each.refuses for each in self._replicas):
                    raise last
                if now >= deadline:
                    raise self._gave_up(last)
                wake = min((each.rests_until for each in self._replicas if each.rests_until > now), default=deadline)
                self._changed.wait(max(min(wake, deadline) - now, 0.001))

    def _gave_up(self, last: TesseraError | None) -> TesseraError:
        if isinstance(last, EngineBusyError):
            return last
        reason = f" ({last})" if last is not None else ""
        return UnreachableError(
            f"none of {len(self._replicas)} endpoints answered within {self.patience_s:g} s{reason}; start them again."
        )

    def _failed(self, replica: _Replica, epoch: int, error: TesseraError) -> None:
        """Let a model rest that failed; a request's own error shows that it is well."""
        with self._changed:
            replica.in_flight -= 1
            replica.refuses = isinstance(error, KeyRefusedError)
            now = time.monotonic()
            if isinstance(error, EngineBusyError):
                pause = BUSY_S if error.retry_after_s is None else error.retry_after_s
                replica.rests_until = max(replica.rests_until, now + pause)
            elif not _is_models_fault(error):
                replica.failures = 0
            elif epoch == replica.epoch:
                replica.failures += 1
                replica.epoch += 1
                rest = min(FIRST_REST_S * 2 ** (replica.failures - 1), LONGEST_REST_S)
                replica.rests_until = now + (rest if error.retry_after_s is None else error.retry_after_s)
            self._changed.notify_all()

    def _answered(self, replica: _Replica) -> None:
        with self._changed:
            replica.in_flight -= 1
            replica.failures, replica.refuses = 0, False
            self._changed.notify_all()

    def _left(self, replica: _Replica) -> None:
        with self._changed:
            replica.in_flight -= 1
            self._changed.notify_all()


def choose(free: Sequence[_Replica], pictures: bytes) -> _Replica:
    """Choose the model that the pictures name unless it has much more in flight than another; else the least busy."""
    least = min(free, key=lambda each: (each.in_flight, each.number))
    if not pictures:
        return least
    # The highest hash of picture and model: when a model is gone, only its own pictures move.
    own = max(free, key=lambda each: hashlib.blake2b(pictures + each.number.to_bytes(4), digest_size=8).digest())
    return own if own.in_flight - least.in_flight <= SLACK else least


def _is_models_fault(error: TesseraError) -> bool:
    """Return True if another model may do better: not for the request's own errors."""
    kinds = EndpointError | EngineBusyError | EngineDeadError | ReplyError
    return isinstance(error, kinds) and not isinstance(error, NotFiniteError)
