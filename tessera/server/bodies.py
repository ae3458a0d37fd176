"""The memory budget for all request bodies, held from the first byte until the answer.

If memory runs short, a stalled body is dropped for one that is arriving; if none is stalled, the
new one is refused and may retry. A single body is always accepted.
"""

from __future__ import annotations

import asyncio

from tessera.errors import EngineBusyError

PATIENCE_S = 2.0  # without a byte, after which a body may be dropped for another


class Bodies:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.arriving: set[Body] = set()

    def make_room(self, newcomer: Body) -> None:
        """Drop stalled bodies until all fit; raises EngineBusyError if that is not enough."""
        while self.held_bytes > max(self.max_bytes, newcomer.num_bytes):
            others = [body for body in self.arriving if body is not newcomer]
            silent = min(others, key=lambda body: body.last_s, default=None)
            if silent is None or silent.silent_s < PATIENCE_S:
                raise EngineBusyError(
                    f"the bodies of unanswered requests hold {self.held_bytes // 10**6} MB and the limit is "
                    f"{self.max_bytes // 10**6} MB (max_pending_body_bytes); send the request again later."
                )
            silent.give_up()


class Body:
    """One request's body, counted in `bodies`; `close` it when the request is answered."""

    def __init__(self, bodies: Bodies) -> None:
        self.num_bytes = 0
        self.given_up = False
        self.timeout: asyncio.Timeout | None = None  # of the task waiting for more of it
        self.last_s = asyncio.get_running_loop().time()
        self._bodies = bodies

    @property
    def silent_s(self) -> float:
        return asyncio.get_running_loop().time() - self.last_s

    def add(self, num_bytes: int, *, more: bool) -> None:
        """Count received bytes; raises EngineBusyError if all bodies together exceed the budget."""
        self.last_s = asyncio.get_running_loop().time()
        self.num_bytes += num_bytes
        self._bodies.held_bytes += num_bytes
        if more:
            self._bodies.arriving.add(self)
        else:
            self._bodies.arriving.discard(self)
        self._bodies.make_room(self)

    def give_up(self) -> None:
        """Stop waiting for the rest, and stop counting it."""
        self.given_up = True
        self.close()
        if self.timeout is not None:
            self.timeout.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        self._bodies.held_bytes -= self.num_bytes
        self.num_bytes = 0
        self._bodies.arriving.discard(self)
