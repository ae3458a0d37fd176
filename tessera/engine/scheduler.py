"""Decides how many tokens each request computes in the next step: the whole scheduling policy.

First come, first served. Every decoding request gets its one token first; prompts fill what is left
of the step's token budget, in chunks. A request starts when there are blocks for all its tokens, so
only decoding can run out of them: then the youngest is preempted, queued and computed again
later. The oldest is never preempted and fits alone, so there is always progress. A step's spare
tokens and blocks may go to drafts: guessed tokens that are computed after a request's last one,
and count if the model chooses the same. It uses no tensors.
The idea of mixing chunked prefill with decoding: Sarathi-Serve, arXiv 2403.02310.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from tessera.engine.adapters import SlotTable
from tessera.engine.blocks import BlockPool
from tessera.engine.config import EngineConfig
from tessera.engine.drafter import Drafter, Step
from tessera.engine.request import Chunk, Request, State
from tessera.engine.watch import first_watched


class Scheduler:
    def __init__(self, config: EngineConfig, pool: BlockPool, drafter: Drafter | None = None) -> None:
        self.config = config
        self.pool = pool
        self.drafter = drafter
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.slots = SlotTable(config.max_loras)
        self.num_new = 0  # waiting requests that never started, so were not preempted
        self.num_preemptions = 0

    def add(self, request: Request) -> None:
        self.waiting.append(request)
        self.num_new += 1

    def schedule(self) -> list[Chunk]:
        """Return the next step's chunks, decoding ones first, with blocks allocated for all."""
        budget, chunks = self.config.max_num_batched_tokens, []
        for running in sorted(self.running, key=lambda request: request.remaining > 1):
            length = min(running.remaining, budget)
            if length and running.state is State.RUNNING and self._grow(running):
                chunks.append(Chunk(running, running.num_computed, length))
                budget -= length
        while budget and len(self.running) < self.config.max_num_seqs and (request := self._next()) is not None:
            if not self._start(request):
                break
            length = min(request.remaining, budget)
            chunks.append(Chunk(request, request.num_computed, length))
            budget -= length
        return chunks if self.drafter is None else self._add_drafts(self.drafter, chunks, budget)

    def advance(self, request: Request, computed: int) -> None:
        """Record the number of computed tokens, and share the blocks that are now full."""
        size = self.config.block_tokens
        request.num_computed = computed
        if not self.config.enable_prefix_caching:
            return
        hashes = request.hash_blocks(size)
        for index in range(request.num_published, computed // size):
            self.pool.publish(request.blocks[index], hashes[index])
        request.num_published = computed // size

    def finish(self, request: Request) -> None:
        """Remove the request, running or waiting, and release its blocks."""
        if request.state is State.RUNNING:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
            self.num_new -= request.started_s is None
        self._release(request, State.FINISHED)

    def _next(self) -> Request | None:
        """Return the oldest waiting request; while its adapter finds no slot, the oldest one without an adapter.

        Others with adapters do not overtake it, or they could keep the slots forever.
        """
        if not self.waiting or self.slots.has_room(self.waiting[0].adapter):
            return self.waiting[0] if self.waiting else None
        return next((request for request in self.waiting if request.adapter is None), None)

    def _start(self, request: Request) -> bool:
        known = []
        # Cached tokens would not be computed, and so not be scored.
        if self.config.enable_prefix_caching and request.params.prompt_logprobs is None:
            # The last token is always computed: the next token is chosen from its output.
            last, watched = len(request.ids) - 1, first_watched(request.prompt)
            usable = (last if watched is None else min(last, watched)) // self.config.block_tokens
            known = self.pool.lookup(request.hash_blocks(self.config.block_tokens)[:usable])
        missing = self._blocks_for(request) - len(known)
        # One spare block for each running request, so that the newcomer is not preempted at once.
        if not self.pool.can_hold(known, missing + len(self.running)):
            return False
        self.pool.acquire(known)
        request.blocks = known + self.pool.allocate(missing)
        request.num_computed = request.resumed_at = len(known) * self.config.block_tokens
        request.num_published = len(known)
        if request.started_s is None:
            request.started_s, request.num_cached = time.perf_counter(), request.num_computed
            self.num_new -= 1
        request.state, request.slot = State.RUNNING, self.slots.take(request.adapter)
        self.waiting.remove(request)
        self.running.append(request)
        return True

    def _grow(self, request: Request) -> bool:
        """Allocate the block for a running request's next token; returns False if the request was preempted."""
        while (missing := self._blocks_for(request) - len(request.blocks)) > self.pool.available:
            youngest = self.running.pop()
            self._release(youngest, State.WAITING)
            self.waiting.appendleft(youngest)
            self.num_preemptions += 1
            if youngest is request:
                return False
        request.blocks += self.pool.allocate(max(missing, 0))
        return True

    def _add_drafts(self, drafter: Drafter, chunks: Sequence[Chunk], budget: int) -> list[Chunk]:
        """Return the chunks, decoding ones with drafts from the step's spare tokens and one spare block each."""
        step = Step(sum(chunk.length for chunk in chunks), sum(chunk.samples for chunk in chunks))
        drafted = []
        for chunk in chunks:
            request, size = chunk.request, self.config.block_tokens
            if chunk.samples and chunk.length == 1:
                spare = max(self.pool.available - len(self.running), 0)
                room = (len(request.blocks) + spare) * size - chunk.end
                draft = drafter.draft(request, min(budget, room), step)
                missing = -(-(chunk.end + len(draft)) // size) - len(request.blocks)
                request.blocks += self.pool.allocate(max(missing, 0))
                chunk = replace(chunk, draft=draft)
                budget -= len(draft)
            drafted.append(chunk)
        return drafted

    def _release(self, request: Request, state: State) -> None:
        if request.state is State.RUNNING:
            self.slots.release(request.adapter)
        self.pool.release(request.blocks)
        request.blocks, request.num_computed, request.num_published = [], 0, 0
        request.state, request.slot = state, None

    def _blocks_for(self, request: Request) -> int:
        return -(-len(request.ids) // self.config.block_tokens)
