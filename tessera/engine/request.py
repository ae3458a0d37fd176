"""One request: its tokens so far, how many are computed, its blocks, and how it ended.

States go WAITING -> RUNNING -> FINISHED; a preempted request goes back to WAITING with the tokens
it has generated, which are then computed again like a prompt. `scheduler` decides which requests run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import torch

from tessera.chat import FinishReason, Timings, TokenLogprob, Usage
from tessera.engine.adapters import LoadedAdapter
from tessera.engine.blocks import block_hash, root_hash
from tessera.engine.grammar import Matcher
from tessera.engine.lookup import Lookup
from tessera.engine.text import TextStream
from tessera.images import PreparedImage
from tessera.prompt import Prompt
from tessera.sampling import SamplingParams


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    id: str
    prompt: Prompt
    params: SamplingParams
    max_tokens: int  # as requested, or as many as the context allows
    text: TextStream
    generator: torch.Generator  # on the CPU, so that a seed draws the same on every device
    cache_salt: str = ""
    adapter: LoadedAdapter | None = None
    matcher: Matcher | None = None  # the reply's position in its grammar; only chosen tokens advance it
    lookup: Lookup | None = None  # created when tokens are first guessed

    state: State = State.WAITING
    finish_reason: FinishReason | None = None
    ids: list[int] = field(default_factory=list)  # prompt and reply
    blocks: list[int] = field(default_factory=list)
    slot: int | None = None  # where its adapter lies while it runs
    num_computed: int = 0  # tokens whose keys and values are in the blocks
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of the tokens after the first, so far
    num_cached: int = 0  # prompt tokens that the first start found in the cache
    resumed_at: int = 0  # tokens that the latest start found in the cache
    num_published: int = 0  # blocks that other requests may share
    hashes: list[bytes] = field(default_factory=list)  # of the full blocks

    arrived_s: float = field(default_factory=time.perf_counter)
    started_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    def __post_init__(self) -> None:
        self.ids.extend(self.prompt.ids)

    @property
    def output_ids(self) -> list[int]:
        return self.ids[len(self.prompt.ids) :]

    @property
    def num_output(self) -> int:
        return len(self.ids) - len(self.prompt.ids)

    @property
    def remaining(self) -> int:
        """Tokens still to compute before the next one can be chosen; 1 while decoding."""
        return len(self.ids) - self.num_computed

    def hash_blocks(self, block_tokens: int) -> list[bytes]:
        """Hashes of all full blocks of the tokens so far; each is computed once."""
        while (start := len(self.hashes) * block_tokens) + block_tokens <= len(self.ids):
            parent = self.hashes[-1] if self.hashes else self._root
            ids = self.ids[start : start + block_tokens]
            self.hashes.append(block_hash(parent, ids, start, self.prompt.images))
        return self.hashes

    def image_key(self, image: PreparedImage) -> bytes:
        """Return the cache key of the image's embeddings; requests with different salts share none.

        An adapter that changes the decoder alone shares embeddings with the base.
        """
        return image.digest + self._image_root

    @property
    def image_slot(self) -> int | None:
        """Return the slot of the adapter that its images are encoded with."""
        return self.slot if self.adapter is not None and self.adapter.content.changes_images else None

    @cached_property
    def _root(self) -> bytes:
        return root_hash(self.cache_salt, "" if self.adapter is None else self.adapter.content.digest)

    @cached_property
    def _image_root(self) -> bytes:
        changes_images = self.adapter is not None and self.adapter.content.changes_images
        return self._root if changes_images else root_hash(self.cache_salt)

    def append(self, token_id: int) -> None:
        self.ids.append(token_id)
        self.last_token_s = time.perf_counter()
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s

    def usage(self) -> Usage:
        image_tokens = sum(span.length for span in self.prompt.images)
        return Usage(len(self.prompt.ids), self.num_output, self.num_cached, image_tokens)

    def timings(self) -> Timings:
        """Seconds until it first ran, from arrival to the first token, and from first to last token."""
        started = time.perf_counter() if self.started_s is None else self.started_s
        queue_s = started - self.arrived_s
        if self.first_token_s is None or self.last_token_s is None:
            return Timings(queue_s=queue_s)
        return Timings(queue_s, self.first_token_s - self.arrived_s, self.last_token_s - self.first_token_s)


@dataclass(frozen=True)
class Chunk:
    """Tokens `start` to `start + length` of a request, and those of a draft after them, to be computed in this step."""

    request: Request
    start: int
    length: int
    draft: tuple[int, ...] = ()  # guesses of the next tokens; only if the chunk is the request's last token

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def num_rows(self) -> int:
        return self.length + len(self.draft)

    @property
    def samples(self) -> bool:
        """Return True if the request's next token can be chosen after this chunk."""
        return self.end == len(self.request.ids)
