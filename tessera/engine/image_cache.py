"""Embeddings of pictures that were encoded before, by their pixels' digest and the salt of who asked.

Least recently used goes first when the bytes exceed the budget; what the step at hand needs is
pinned and stays, so the budget can be exceeded only by one step's own pictures. A key covers
pixels, size, preprocessing and tenant; the model is the process's one model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor


class ImageCache:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes_used = 0
        self.queries = 0  # pictures that requests needed, each once a request
        self.hits = 0  # of those, the ones that had not to be encoded for it
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()  # least recently used first
        self._pinned: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __getitem__(self, key: bytes) -> Tensor:
        """Embeddings (tokens, D), owned by the cache."""
        self._entries.move_to_end(key)
        return self._entries[key]

    def pin(self, keys: Iterable[bytes]) -> None:
        """Name the pictures of the step at hand; those of the step before are let go."""
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
