"""Workers on a shared file: each locks a file of its own beside it, and the system ends the lock when the worker ends.

Process numbers would not do: they are used again, and differ between containers that share a folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

SUFFIX = ".worker"


class Owner:
    """This worker, alive until closed."""

    def __init__(self, shared: Path) -> None:
        while True:
            self.name = secrets.token_hex(8)
            self._path = _file_of(shared, self.name)
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if self._path.exists():
                return
            os.close(self._descriptor)  # another found it before it was locked, and took it for a dead one's

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_alive(shared: Path, name: str) -> bool:
    """Return True if the worker still holds its lock; what a dead one left behind is removed."""
    path = _file_of(shared, name)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    with suppress(FileNotFoundError):
        path.unlink()
    return False


def others_of(shared: Path) -> list[str]:
    """Names of all living workers on the file; what dead ones left behind is removed."""
    start = f".{shared.name}."
    names = [
        path.name.removeprefix(start).removesuffix(SUFFIX) for path in shared.parent.iterdir()
        if path.name.startswith(start) and path.name.endswith(SUFFIX)
    ]  # fmt: skip
    return [name for name in names if is_alive(shared, name)]


def _file_of(shared: Path, name: str) -> Path:
    return shared.with_name(f".{shared.name}.{name}{SUFFIX}")
