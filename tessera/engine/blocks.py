"""Tracks which requests hold which blocks of the key/value cache, and which blocks can be reused.

A block is in exactly one state: free (no content), used (held by one or more requests) or cached
(held by none, content known; the least recently used is evicted first). A full block is
known by a hash chained over everything before it, so equal hashes mean equal keys and values: its
tokens, the images that overlap it (the tokens alone are the same for ALL images), the content of the
adapter that computed it, and a salt that separates tenants. It uses no tensors. The idea: vLLM's
automatic prefix caching.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.prompt import ImageSpan


@dataclass(frozen=True)
class BlockCounts:
    free: int
    cached: int
    used: int
    total: int


class BlockPool:
    """Reference-counted blocks 0 to num_blocks - 1."""

    def __init__(self, num_blocks: int) -> None:
        self._total = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._known: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def available(self) -> int:
        """Blocks that `allocate` can return: free ones, and cached ones by eviction."""
        return len(self._free) + len(self._cached)

    def counts(self) -> BlockCounts:
        used = sum(holders > 0 for holders in self._holders)
        return BlockCounts(len(self._free), len(self._cached), used, self._total)

    def lookup(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix; they are not held until `acquire`."""
        found = []
        for block_hash in hashes:
            if (block := self._known.get(block_hash)) is None:
                break
            found.append(block)
        return found

    def can_hold(self, known: Sequence[int], extra: int) -> bool:
        """Return True if `known` can be acquired and `extra` more blocks then allocated."""
        return self.available - sum(block in self._cached for block in known) >= extra

    def acquire(self, known: Sequence[int]) -> None:
        for block in known:
            self._cached.pop(block, None)
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take blocks without content; the caller has checked `available`."""
        if count > self.available:
            raise RuntimeError(f"{count} blocks asked, {self.available} available: the scheduler must check first")
        return [self._take() for _ in range(count)]

    def publish(self, block: int, block_hash: bytes) -> None:
        """Record that a used block now holds the content of this hash, so that others may share it."""
        if self._hashes[block] is None and block_hash not in self._known:
            self._hashes[block] = block_hash
            self._known[block_hash] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Release one sequence's blocks, given in sequence order."""
        for block in reversed(blocks):  # a prefix is useless without its start, so evict from the end
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._hashes[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            block_hash = self._hashes[block]
            if block_hash is not None:
                del self._known[block_hash]
                self._hashes[block] = None
        self._holders[block] = 1
        return block


def root_hash(cache_salt: str, adapter: str = "") -> bytes:
    """Return the parent hash of a sequence's first block; different salts and adapters, by digest, share nothing."""
    return _digest(b"tessera prefix", cache_salt.encode(), adapter.encode())


def block_hash(parent: bytes, ids: Sequence[int], start: int, images: Sequence[ImageSpan]) -> bytes:
    """Hash the block whose tokens `ids` begin at position `start`.

    `images` are the sequence's spans; those that overlap the block are hashed with content and offset.
    """
    overlapping = [
        image.start.to_bytes(8, "little") + image.image.digest
        for image in images
        if image.start < start + len(ids) and start < image.start + image.length
    ]
    return _digest(parent, array("q", ids).tobytes(), *overlapping)


def _digest(*parts: bytes) -> bytes:
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))  # lengths keep parts from running into each other
        hasher.update(part)
    return hasher.digest()
