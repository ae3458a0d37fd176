"""The engine's thread: steps the engine while there is work and delivers each reply to its caller.

Other threads only leave messages in an inbox; this thread alone touches the engine. Requests that
can be refused at once are refused in the caller's thread. If the engine fails, every waiting caller
gets the error and no further request is accepted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from tessera.chat import Delta
from tessera.engine.admission import Submission, check_request, check_room, pixel_bytes
from tessera.engine.engine import Engine
from tessera.errors import EngineDeadError, TesseraError
from tessera.machine import use_device
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams

logger = logging.getLogger(__name__)

IDLE_S = 1.0  # longest sleep of the thread, so that an idle engine keeps its heartbeat


class Handle:
    """One submitted request: iterate over its deltas; closing it before the end aborts the request."""

    def __init__(
        self, loop: EngineLoop, request_id: str, pixel_bytes: int, notify: Callable[[], None] | None = None
    ) -> None:
        self.request_id = request_id
        self.pixel_bytes = pixel_bytes  # kept in memory until the request ends
        self._loop = loop
        self._notify = notify
        self._deltas: queue.SimpleQueue[Delta | TesseraError] = queue.SimpleQueue()
        self._ended = False

    def __iter__(self) -> Iterator[Delta]:
        """Yield deltas up to the last, which carries the finish reason. Leaving the iteration early aborts."""
        try:
            while not self._ended:
                yield self.next()
        finally:
            self.close()

    def next(self, timeout_s: float | None = None) -> Delta:
        """Return the next delta; raises queue.Empty after the timeout, or the error that ended the engine."""
        delta = self._deltas.get(timeout=timeout_s)
        if isinstance(delta, TesseraError):
            self._ended = True
            raise delta
        self._ended = delta.finish_reason is not None
        return delta

    def close(self) -> None:
        """Abort the request unless its last delta was already taken."""
        if not self._ended:
            self._ended = True
            self._loop.abandon(self)

    def put(self, delta: Delta | TesseraError) -> None:
        """Add a delta, or the error instead of it; called by the loop."""
        self._deltas.put(delta)
        if self._notify is not None:
            self._notify()


class EngineLoop:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.heartbeat_s = time.monotonic()  # when the thread last went round its loop
        self._wake = threading.Condition()
        self._submitted: list[Submission] = []
        self._aborted: list[str] = []
        self._handles: dict[str, Handle] = {}  # for all unfinished requests
        self._dead: EngineDeadError | None = None
        self._closing = False
        if engine.ranks is not None:
            engine.ranks.on_death = self._die
        self._thread = threading.Thread(target=self._run, name="tessera-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._dead is None and not self._closing

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        cache_salt: str = "",
        notify: Callable[[], None] | None = None,
    ) -> Handle:
        """Queue a request and return at once; raises the errors of `Engine.add`, and EngineDeadError.

        `notify` is called from the engine's thread after each delta; it must neither wait nor raise.
        """
        config = self.engine.config
        check_request(prompt, params, config, self.engine.model.config)
        adapter = self.engine.adapters.get(params.adapter)
        submission = Submission.of(prompt, params, request_id, cache_salt, self.engine.start_grammar(params), adapter)
        handle = Handle(self, submission.request_id, pixel_bytes(prompt), notify)
        with self._wake:
            self._check_alive()
            waiting = len(self._submitted) + self.engine.scheduler.num_new
            held_bytes = {id: each.pixel_bytes for id, each in self._handles.items()}
            check_room(submission, config, waiting=waiting, held_bytes=held_bytes)
            self._handles[handle.request_id] = handle
            self._submitted.append(submission)
            self._wake.notify()
        return handle

    def abort(self, request_id: str) -> None:
        """Ask for the end of a request; does nothing if it has ended."""
        with self._wake:
            self._aborted.append(request_id)
            self._wake.notify()

    def abandon(self, handle: Handle) -> None:
        """Abort this handle's request, unless it has ended and another request has taken its id."""
        with self._wake:
            if self._handles.get(handle.request_id) is handle:
                self._aborted.append(handle.request_id)
                self._wake.notify()

    def close(self) -> None:
        """End all requests (their last delta says "abort") and the thread; may be called twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self.engine.grammars.close()  # a thread may be waiting for it
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.engine.close()

    def _check_alive(self) -> None:
        if self._dead is not None:
            raise _copy(self._dead)
        if self._closing:
            raise EngineDeadError("the engine was closed; create a new LLM to continue.")

    def _run(self) -> None:
        try:
            use_device(self.engine.model.device)
            while self.alive:
                self._wait()
                self._take_notes()
                self._deliver()
            if self._dead is None:
                self._end_all()
        except Exception as error:
            logger.exception("the engine failed")
            self._die(error)

    def _wait(self) -> None:
        with self._wake:
            while self.alive and not (self.engine.has_work or self._submitted or self._aborted):
                self.heartbeat_s = time.monotonic()
                self._wake.wait(IDLE_S)
        self.heartbeat_s = time.monotonic()

    def _take_notes(self) -> None:
        with self._wake:  # held throughout, so that `submit` never counts a request twice or not at all
            for submission in self._submitted:
                request_id = submission.request_id
                try:
                    self.engine.queue(submission)
                except TesseraError as error:
                    self._handles.pop(request_id).put(error)
                except Exception:  # any failure ends this request only
                    logger.exception("request %s could not be started", request_id)
                    failure = TesseraError("the request could not be started; the log has the details.")
                    self._handles.pop(request_id).put(failure)
            for request_id in self._aborted:
                self.engine.abort(request_id)
            self._submitted, self._aborted = [], []

    def _deliver(self) -> None:
        for request, delta in self.engine.step():
            with self._wake:
                if self._dead is not None:  # a rank ended during this step, and every caller has the error
                    return
                ended = delta.finish_reason is not None
                handle = self._handles.pop(request.id) if ended else self._handles[request.id]
            handle.put(delta)

    def _end_all(self) -> None:
        self._take_notes()
        for request_id in list(self._handles):
            self.engine.abort(request_id)
        self._deliver()

    def _die(self, error: Exception) -> None:
        with self._wake:
            if self._dead is not None:  # reported already by the thread that watches the rank
                return
            # A server passes this message to its clients, so the details stay in the cause and in the log.
            self._dead = EngineDeadError("the engine stopped after an error; restart it, the log has the details.")
            self._dead.__cause__ = error
            waiting, self._handles = list(self._handles.values()), {}
            self._wake.notify()
        for handle in waiting:
            handle.put(_copy(self._dead))


def _copy(error: EngineDeadError) -> EngineDeadError:
    """Copy the error for one caller, since raising an exception records a traceback in it."""
    copy = EngineDeadError(str(error))
    copy.__cause__ = error.__cause__
    return copy
