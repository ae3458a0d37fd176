"""Image decoding in child processes, which can be killed; a decoder inside a library cannot be interrupted.

A small file may demand hours of work or gigabytes (countless scans, endless runs). So a
server decodes in children, each with a deadline set by the image's pixels and a memory limit; one
that exceeds them is killed and replaced, and the server itself never holds more than the result. Pixels
come back as a file in memory, whose descriptor is passed, so that they are not copied. Run by `_start`,
this file is the child too: it imports neither torch nor a model, so that it starts quickly.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.children import (
    ENDED_AS_SLOW,
    Child,
    MemoryBound,
    allow_seconds,
    be_expendable,
    exactly,
    memory_file,
    receive,
    send,
    start,
)
from tessera.errors import ImageError
from tessera.fetch import Stop
from tessera.raster import Pixels, decode
from tessera.sources import ImageLimits

MAX_DECODING = 2  # children, hence images decoded at once
BASE_S = 5.0  # processor time for an image of any size
PIXELS_PER_S = 8_000_000  # below the speed of the slowest format on one old core
PATIENCE = 4  # times as long by the clock, for a busy machine
BASE_BYTES = 256 << 20  # beyond what a fresh child has
BYTES_PER_PIXEL = 20  # of address space: the widest decoder's planes, Pillow's image and the result
START_S = 30.0
BEFORE_SERVING = ""  # code that a test runs in the child first


def processor_s(num_pixels: int) -> float:
    """Processor seconds that decoding an image may take."""
    return BASE_S + num_pixels / PIXELS_PER_S


def deadline_s(num_pixels: int) -> float:
    """Seconds by the clock until decoding is abandoned."""
    return PATIENCE * processor_s(num_pixels)


class Decoders:
    """Decoding child processes, started when first needed and restarted after one was killed."""

    def __init__(self, count: int = MAX_DECODING, limit_s: Callable[[int], float] = deadline_s) -> None:
        self._limit_s = limit_s
        self._free = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._closed = False

    def start(self) -> None:
        """Start a child before it is needed."""
        self._give_back(_start())

    def decode(self, name: str, data: bytes, limits: ImageLimits, stop: Stop | None = None) -> Pixels:
        """Decode like `raster.decode`; raises ImageError also for an image that takes too long or too much memory."""
        with self._free:
            child = self._take()
            try:
                with (stop or Stop()).ending(child.process.kill):
                    pixels = child.ask(name, data, limits, self._limit_s)
            except ImageError:
                self._give_back(child)
                raise
            except BaseException as error:
                child.end()
                if isinstance(error, TimeoutError) or child.process.returncode in ENDED_AS_SLOW:
                    raise ImageError(
                        f"{name} takes longer to decode than images of its size may; save it anew, or scale it down."
                    ) from error
                if isinstance(error, OSError | ValueError):
                    raise ImageError(f"{name} could not be decoded; save it anew, in another format.") from error
                raise
            self._give_back(child)
            return pixels

    def close(self) -> None:
        """Stop idle children; a busy one stops when its image is done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def _take(self) -> _Child:
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return _start()
            if child.process.poll() is None:
                return child
            child.end()

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if not self._closed and not child.is_over and child.process.poll() is None:
                self._idle.append(child)
                return
        child.end()


@dataclass
class _Child(Child):
    is_ready: bool = False
    is_over: bool = False

    def ask(self, name: str, data: bytes, limits: ImageLimits, limit_s: Callable[[int], float]) -> Pixels:
        """Have the child decode one image. Raises TimeoutError, and OSError or ValueError if the child died."""
        if not self.is_ready:
            self.channel.settimeout(START_S)
            receive(self.channel)
            self.is_ready = True
        began = time.monotonic()
        question = {"name": name, "size": len(data), "max_pixels": limits.max_pixels, "flags": limits.flags}
        self.channel.settimeout(limit_s(0))
        send(self.channel, question)
        self.channel.sendall(data)
        answer, _ = receive(self.channel)
        if "error" not in answer:  # the size, known from the header; the pixels follow
            self.channel.settimeout(max(began + limit_s(answer["width"] * answer["height"]) - time.monotonic(), 0.001))
            shape = answer["height"], answer["width"], 3
            answer, descriptor = receive(self.channel)
        if "error" in answer:
            self.is_over = "over" in answer
            raise ImageError(answer["error"])
        try:
            return np.frombuffer(mmap.mmap(descriptor, shape[0] * shape[1] * 3), np.uint8).reshape(shape)
        finally:
            os.close(descriptor)


def _start() -> _Child:
    child = start("tessera.decoding", "_serve", BEFORE_SERVING)
    return _Child(child.process, child.channel)


# The child ----------------------------------------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """Decode incoming images until the channel closes."""
    channel = socket.socket(fileno=descriptor)
    _prepare()
    bound = MemoryBound()
    send(channel, {})
    with suppress(ConnectionError):
        while True:
            question, _ = receive(channel)
            # Ends this process if its parent, which would have killed it earlier, is gone.
            signal.alarm(math.ceil(2 * deadline_s(question["max_pixels"])))
            if not _answer(channel, question, exactly(channel, question["size"]), bound):
                return
            signal.alarm(0)


def _answer(channel: socket.socket, question: dict[str, Any], data: bytes, bound: MemoryBound) -> bool:
    """Answer one request; return True if this process can continue."""
    files: list[int] = []

    def allocated(height: int, width: int) -> Pixels:
        bound.allow(BASE_BYTES + 4 * len(data) + BYTES_PER_PIXEL * height * width)
        allow_seconds(processor_s(height * width))
        send(channel, {"height": height, "width": width})
        files.append(memory_file(height * width * 3))
        return np.frombuffer(mmap.mmap(files[0], height * width * 3), np.uint8).reshape(height, width, 3)

    limits = ImageLimits(max_pixels=question["max_pixels"], flags=tuple(question["flags"]))
    try:
        # WebP allocates its pixels on opening, before their number is known here.
        bound.allow(BASE_BYTES + 4 * len(data) + BYTES_PER_PIXEL * limits.max_pixels)
        allow_seconds(processor_s(0))
        decode(question["name"], data, limits, allocated)
        send(channel, {}, files[0])
    except ImageError as error:
        send(channel, {"error": str(error)})
    except MemoryError:
        text = f"{question['name']} needs more memory to decode than images of its size may; save it anew."
        send(channel, {"error": text, "over": True})
        return False
    finally:
        for each in files:
            os.close(each)
    return True


def _prepare() -> None:
    """Import decoders ahead, and make this process the first to be killed if memory runs out."""
    from PIL import AvifImagePlugin
    from PIL import Image as PILImage

    be_expendable()
    PILImage.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = min(4, os.cpu_count() or 1)
