"""What a frozen vision encoder gave for an image, kept so that it runs once: in memory, then in the run's folder.

Both are bounded, the files also by three quarters of the free disk; a damaged or missing one is computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.finetune.samples import Picture
from tessera.machine import free_disk_bytes

MEMORY_BYTES = 2 << 30  # of features, each 8 MB for a full image of the 12B
DISK_BYTES = 64 << 30
NAME = "features"


class Features:
    """Features (P, E) by image and size; with a folder, those that leave the memory go there, up to `disk_bytes`."""

    def __init__(
        self, folder: Path | None = None, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        self.folder, self.memory_bytes, self.disk_bytes = folder, memory_bytes, disk_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        written = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0
        self._room = 0 if folder is None else min(disk_bytes - written, free_disk_bytes(folder) * 3 // 4)

    def get(self, picture: Picture) -> Tensor | None:
        """Return what was kept for an image, or None."""
        name = _name(picture)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if self.folder is None:
            return None
        try:
            features = load_file(self.folder / name)[NAME]
        except (OSError, SafetensorError, KeyError):
            return None
        self._remember(name, features)
        return features

    def keep(self, picture: Picture, features: Tensor) -> None:
        self._remember(_name(picture), features)

    def _remember(self, name: str, features: Tensor) -> None:
        self._kept[name] = features
        self._bytes += features.nbytes
        while self._bytes > self.memory_bytes:
            oldest, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
            self._store(oldest, dropped)

    def _store(self, name: str, features: Tensor) -> None:
        if self.folder is None or features.nbytes > self._room or (self.folder / name).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{os.getpid()}"  # other ranks may store the same
        try:
            save_file({NAME: features}, partial)
            partial.replace(self.folder / name)
            self._room -= features.nbytes
        except (OSError, SafetensorError):  # the disk is full: nothing more is stored
            partial.unlink(missing_ok=True)
            self._room = 0


def _name(picture: Picture) -> str:
    """Name an image's file by its source, its size, and when the source was last changed."""
    path = Path(picture.source)
    changed = path.stat().st_mtime_ns if path.exists() else 0  # 0: a URL
    key = f"{picture.source} {changed} {picture.side} {picture.grid}"
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
