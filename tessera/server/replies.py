"""Running requests, and awaiting their deltas together in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from tessera.chat import Delta
from tessera.engine.loop import Handle


class DeltaReader(Protocol):
    """Turns one reply's deltas into those the client sees."""

    def read(self, delta: Delta) -> Delta: ...


class Replies:
    """One or several running requests with deltas awaited together; `close` aborts the unfinished ones."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._handles: list[Handle] = []
        self._readers: list[DeltaReader | None] = []
        self._unfinished: set[int] = set()

    def add(self, submit: Callable[..., Handle], reader: DeltaReader | None) -> None:
        """Start one more request; `submit` takes `notify`, the callback for each of its deltas."""
        self._handles.append(submit(notify=self._wake))
        self._readers.append(reader)
        self._unfinished.add(len(self._handles) - 1)

    async def next(self, timeout_s: float | None = None) -> list[tuple[int, Delta]]:
        """Return new deltas with their requests' numbers; none after the timeout. Raises EngineDeadError."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        self._arrived.clear()
        return [(index, delta) for index in sorted(self._unfinished) for delta in self._take(index)]

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        while self._unfinished:
            for entry in await self.next():
                yield entry

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def ended(self) -> bool:
        return not self._unfinished

    def close(self) -> None:
        for handle in self._handles:
            handle.close()

    def _take(self, index: int) -> list[Delta]:
        deltas: list[Delta] = []
        while index in self._unfinished:
            try:
                delta = self._handles[index].next(timeout_s=0)
            except queue.Empty:
                break
            reader = self._readers[index]
            deltas.append(delta if reader is None else reader.read(delta))
            if deltas[-1].finish_reason is not None:
                self._unfinished.discard(index)
        return deltas

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)
