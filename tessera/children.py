"""Child processes that can be killed: starting one, messages to and from it, and the limits it sets itself.

A library's decoder cannot be interrupted, and may take the whole process with it. So what reads strangers'
files runs in children: `decoding` and `documents` each have a program for theirs. Results come back as files
in memory whose descriptors are passed, so that nothing is copied.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 64_000_000
ENDED_AS_SLOW = (-signal.SIGXCPU, -signal.SIGALRM)  # statuses of children that exceeded a limit on time
_HEADER = struct.Struct("!I")


@dataclass
class Child:
    """A process, and the socket to it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def end(self) -> int:
        """Kill it, unless it has ended, and return its status."""
        self.process.kill()
        self.channel.close()
        return self.process.wait()


def start(module: str, serve: str, before: str = "") -> Child:
    """Start a child that calls `serve` of `module` with its socket's descriptor; `before` is code it runs first."""
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); {before}from {module} import {serve}; {serve}({theirs.fileno()})"
    # Per-thread memory pools, one for every core, would count against the limit.
    few = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt in a terminal is the parent's to handle
            pass_fds=(theirs.fileno(),),
            env={**os.environ, **few},
        )
    return Child(process, ours)


# Messages: the length of a JSON object, the object, and perhaps a file's descriptor with it -------------------------


def send(channel: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    body = json.dumps(message).encode()
    packet = _HEADER.pack(len(body)) + body
    sent = 0 if descriptor is None else socket.send_fds(channel, [packet], [descriptor])
    channel.sendall(packet[sent:])


def receive(channel: socket.socket) -> tuple[dict[str, Any], int]:
    """Receive an object and its descriptor, or -1 without one; raises OSError at the end."""
    head, descriptors, _, _ = socket.recv_fds(channel, _HEADER.size, 1)
    if len(head) < _HEADER.size:
        head += exactly(channel, _HEADER.size - len(head))
    (length,) = _HEADER.unpack(head)
    if length > MAX_MESSAGE_BYTES:
        raise ConnectionError("the other side sends more than it may")
    return json.loads(exactly(channel, length)), descriptors[0] if descriptors else -1


def exactly(channel: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        if not (received := channel.recv_into(view[got:])):
            raise ConnectionError("the other side has ended")
        got += received
    return bytes(data)


# The limits a child sets itself --------------------------------------------------------------------------------------


def memory_file(size: int) -> int:
    """Create a file in memory or, if the system lacks those, a temporary one without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tessera-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def be_expendable() -> None:
    """Leave no core file, and be the first process to be killed if memory runs out."""
    limit(resource.RLIMIT_CORE, 0)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:  # not Linux
        return


class MemoryBound:
    """Limits the address space that this process may add to its current one, on systems that can."""

    def __init__(self) -> None:
        status = Path("/proc/self/statm")
        self._own = int(status.read_text().split()[0]) * mmap.PAGESIZE if status.exists() else None

    def allow(self, num_bytes: int) -> None:
        if self._own is not None:
            limit(resource.RLIMIT_AS, self._own + num_bytes)


def allow_seconds(seconds: float) -> None:
    """Limit this process's processor time from now on; the system kills it when it exceeds that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))


def limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
