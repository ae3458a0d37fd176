"""Caches embeddings of encoded images, by the pixels' digest, the requester's salt, and an adapter that changes them.

The least recently used is evicted when the bytes exceed the budget; images of the current step are
pinned, so the budget can be exceeded only by one step's own images. A key covers pixels, size,
preprocessing, tenant and adapter; the process has only one model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor


class ImageCache:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes_used = 0
        self.queries = 0  # images that requests needed, each counted once per request
        self.hits = 0  # of those, how many were already cached
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()  # least recently used first
        self._pinned: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __getitem__(self, key: bytes) -> Tensor:
        """Return embeddings (tokens, D), owned by the cache."""
        self._entries.move_to_end(key)
        return self._entries[key]

    def pin(self, keys: Iterable[bytes]) -> None:
        """Pin the current step's images; unpin those of the previous step."""
        self._pinned = frozenset(keys)
        self._trim()

    def put(self, key: bytes, embeddings: Tensor) -> None:
        self._entries[key] = embeddings
        self.bytes_used += embeddings.nbytes
        self._trim()

    def _trim(self) -> None:
        for key in list(self._entries):
            if self.bytes_used <= self.max_bytes:
                return
            if key not in self._pinned:
                self.bytes_used -= self._entries.pop(key).nbytes
