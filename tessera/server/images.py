"""Loading a request's images, from source to pixels, with separate capacity.

Data URLs are read by threads that never block, URLs and files by others that may, and decoding runs in
child processes (`decoding`). So text waits for none of this, and a known image never waits for a new
one: prepared images are cached by encoded bytes and tenant's salt. A client that leaves ends the work
on its images at once. Everything held here counts against one budget.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from PIL import Image as PILImage

from tessera.decoding import MAX_DECODING, Decoders
from tessera.errors import EngineBusyError, FetchError, ImageError
from tessera.fetch import Stop
from tessera.images import PreparedImage, place_of, prepare, side_of
from tessera.messages import Image
from tessera.model.config import VisionConfig
from tessera.sources import ImageLimits, is_data_url, read

Result = TypeVar("Result")
Key = tuple[bytes, int | None, str]  # digest of the encoded bytes, side, tenant's salt
Load = Callable[[Sequence[Image]], list[PreparedImage]]
READERS, FETCHERS = 2, 8
CACHE_BYTES = 256 << 20  # for prepared images, some 20 of the largest


class Images:
    """Prepares the images of at most `max_waiting` requests at once, which hold at most `max_bytes` together."""

    def __init__(self, limits: ImageLimits, vision: VisionConfig, *, max_bytes: int, max_waiting: int) -> None:
        self._limits, self._vision = limits, vision
        self._decoders = Decoders()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="tessera-read")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="tessera-fetch")
        self._decoding = ThreadPoolExecutor(MAX_DECODING, thread_name_prefix="tessera-decode")
        self._cache = PreparedCache(min(CACHE_BYTES, max_bytes // 4))
        self._max_waiting, self._waiting = max_waiting, 0
        self._max_bytes, self._held_bytes = max_bytes, 0

    def start(self) -> None:
        """Start a decoding process, so that the first image need not wait for it."""
        self._decoders.start()

    async def load(self, images: Sequence[Image], salt: str = "") -> Load:
        """Prepare these images; the returned `Load` looks each of them up, for `LLM.prepare`.

        Raises ImageError and FetchError, and EngineBusyError if too many requests wait.
        """
        prepared: dict[int, PreparedImage] = {}
        if images:
            with self._place() as hold:
                for number, image in enumerate(images, 1):
                    try:
                        prepared[id(image)] = await self._one(image, salt, hold)
                    except (ImageError, FetchError) as error:
                        raise type(error)(f"{place_of(number, len(images))}{error}") from error
        return lambda wanted: [prepared[id(image)] for image in wanted]

    async def _one(self, image: Image, salt: str, hold: Callable[[int], None]) -> PreparedImage:
        side = side_of(image, self._limits)
        if isinstance(image.source, PILImage.Image):  # a page that was rendered here
            prepared = await self._run(self._decoding, partial(self._prepare, image.source, side))
            hold(prepared.pixels_CHW.nbytes)
            return prepared
        readers = self._readers if is_data_url(image.source) else self._fetchers
        name, data, digest = await self._run(readers, partial(self._read, image))
        key = digest, side, salt
        if (known := self._cache.get(key)) is not None:
            return known
        hold(len(data))
        prepared = await self._run(self._decoding, partial(self._decode, name, data, side))
        hold(prepared.pixels_CHW.nbytes - len(data))
        self._cache.put(key, prepared)
        return prepared

    def _read(self, image: Image, stop: Stop) -> tuple[str, bytes, bytes]:
        if not isinstance(image.source, str):
            raise TypeError(f"a request's image is named by a text, not {type(image.source).__name__}")
        name, data = read(image.source, self._limits, stop)
        return name, data, hashlib.blake2b(data, digest_size=32).digest()

    def _prepare(self, page: PILImage.Image, side: int | None, stop: Stop) -> PreparedImage:
        return prepare(page, self._vision, max_side=side)

    def _decode(self, name: str, data: bytes, side: int | None, stop: Stop) -> PreparedImage:
        return prepare(self._decoders.decode(name, data, self._limits, stop), self._vision, max_side=side)

    async def _run(self, executor: Executor, work: Callable[[Stop], Result]) -> Result:
        """Run in a thread, which is notified if nobody waits for it any more."""
        stop = Stop()
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work, stop)
        except asyncio.CancelledError:
            stop.set()
            raise

    @contextmanager
    def _place(self) -> Iterator[Callable[[int], None]]:
        """Hold a slot for preparing images; yields the function that counts its bytes."""
        if self._waiting >= self._max_waiting:
            raise EngineBusyError(
                f"the images of {self._waiting} requests are being prepared (at most {self._max_waiting}); send the "
                "request again later."
            )
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            others = self._held_bytes - held
            if num_bytes > 0 and others and self._held_bytes + num_bytes > self._max_bytes:
                raise EngineBusyError(
                    f"images that are being prepared hold {self._held_bytes >> 20} MiB of at most "
                    f"{self._max_bytes >> 20}; send the request again later."
                )
            held += num_bytes
            self._held_bytes += num_bytes

        self._waiting += 1
        try:
            yield hold
        finally:
            self._waiting -= 1
            self._held_bytes -= held

    def close(self) -> None:
        for executor in (self._readers, self._fetchers, self._decoding):
            executor.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()


class PreparedCache:
    """An LRU cache of prepared images; used from one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._entries: OrderedDict[Key, PreparedImage] = OrderedDict()

    def get(self, key: Key) -> PreparedImage | None:
        if (found := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Key, image: PreparedImage) -> None:
        if key in self._entries:
            return
        self._entries[key] = image
        self._num_bytes += image.pixels_CHW.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._num_bytes -= oldest.pixels_CHW.nbytes
