"""Images have capacity of their own: text waits for none, cached ones for no new ones, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from tessera.chat import Tools
from tessera.decoding import Decoders
from tessera.errors import EngineBusyError, ImageError
from tessera.images import load_pixels, prepare
from tessera.llm import LLM
from tessera.messages import Image, Message
from tessera.raster import Pixels
from tessera.sampling import SamplingParams
from tessera.server.backend import LocalBackend
from tessera.server.images import CACHE_BYTES, FETCHERS, PreparedCache
from tessera.sources import ImageLimits
from tests.server.conftest import RECEIPT
from tests.test_fetch import Dripping
from tests.test_images import encoded

PATIENCE_S = 60  # of a test that would wait for ever where something waits that must not


def url_of(seed: int, size: tuple[int, int] = (40, 30)) -> str:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return "data:image/png;base64," + base64.b64encode(encoded(PILImage.fromarray(noise), "PNG")).decode()


def asking(*urls: str) -> list[Message]:
    return [Message("user", (*[Image(url) for url in urls], "What is it?"))]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    limits = ImageLimits(allow_private_addresses=True, fetch_timeout_s=3600, local_files=None)
    with LLM("nano", limits=limits, kv_cache_bytes=2**25, max_num_seqs=2) as llm:
        yield llm


@pytest.fixture
def backend(llm: LLM) -> Iterator[LocalBackend]:
    backend = LocalBackend(llm, max_preparing=12)
    yield backend
    backend._workers.shutdown(wait=False, cancel_futures=True)
    backend.images.close()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """New images are not decoded until this is set."""
    gate, decode = threading.Event(), Decoders.decode

    def waiting(self: Decoders, *arguments: Any) -> Pixels:
        assert gate.wait(PATIENCE_S)
        return decode(self, *arguments)

    monkeypatch.setattr(Decoders, "decode", waiting)
    yield gate
    gate.set()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    asyncio.run(limited())


async def prepared(backend: LocalBackend, messages: list[Message], salt: str = "") -> Any:
    prompt, _ = await backend.prepare(messages, SamplingParams(), Tools(), salt)
    return prompt


def test_a_prompt_is_the_same_as_without_children(backend: LocalBackend, llm: LLM) -> None:
    async def work() -> None:
        messages = asking(RECEIPT, url_of(1))
        ours, plain = await prepared(backend, messages), llm.prepare(messages)
        assert ours.ids == plain.ids
        assert [span.image.digest for span in ours.images] == [span.image.digest for span in plain.images]
        assert (await backend.prompt(messages, ())).ids == plain.ids

    run(work)


def test_text_and_cached_images_wait_for_no_new_image(backend: LocalBackend, stuck: threading.Event) -> None:
    async def work() -> None:
        stuck.set()
        await prepared(backend, asking(RECEIPT))
        stuck.clear()
        new = [asyncio.create_task(prepared(backend, asking(url_of(seed)))) for seed in range(12)]
        await asyncio.sleep(0.2)
        for _ in range(20):
            await prepared(backend, [Message("user", ("Hello",))])
        with pytest.raises(EngineBusyError, match="12 requests are being prepared"):
            await prepared(backend, asking(url_of(99)))
        new.pop().cancel()
        await asyncio.sleep(0.1)
        for _ in range(20):
            await prepared(backend, asking(RECEIPT))
        assert not any(task.done() for task in new)
        stuck.set()
        await asyncio.gather(*new)

    run(work)


def test_slow_hosts_keep_neither_text_nor_other_images_waiting(backend: LocalBackend) -> None:
    host = Dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x")

    async def work() -> None:
        slow = [asyncio.create_task(prepared(backend, asking(host.url))) for _ in range(FETCHERS + 2)]
        await asyncio.sleep(0.3)
        await prepared(backend, [Message("user", ("Hello",))])
        await prepared(backend, asking(url_of(7)))
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        # Whoever has left has freed the thread that fetched for it, and its place.
        busy = [backend.images._fetchers.submit(lambda: None) for _ in range(FETCHERS)]
        await asyncio.gather(*(asyncio.wrap_future(future) for future in busy))
        assert backend.images._waiting == 0
        assert backend.images._held_bytes == 0

    run(work)
    host.close()


def test_what_images_hold_is_bounded_and_given_back(backend: LocalBackend, stuck: threading.Event) -> None:
    url = url_of(3, (400, 300))
    backend.images._max_bytes = 2 * len(url)

    async def work() -> None:
        tasks = [asyncio.create_task(prepared(backend, asking(url))) for _ in range(6)]
        await asyncio.sleep(0.5)
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 4
        for task in refused:
            assert isinstance(task.exception(), EngineBusyError)
        stuck.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert backend.images._held_bytes == 0
        assert backend.images._waiting == 0

    run(work)


def test_an_error_says_which_image(backend: LocalBackend) -> None:
    async def work() -> None:
        large = url_of(5)
        bad = "data:image/png;base64," + base64.b64encode(b"hello").decode()
        with pytest.raises(ImageError, match=r"^image 2 of 3: the image \(5 bytes\) is not an image"):
            await prepared(backend, asking(large, bad, large))
        with pytest.raises(ImageError, match=r"^the image \(5 bytes\) is not an image"):
            await prepared(backend, asking(bad))

    run(work)


def test_tenants_share_no_prepared_image(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = Decoders.decode

    def counted(self: Decoders, name: str, *arguments: Any) -> Pixels:
        decoded.append(name)
        return decode(self, name, *arguments)

    monkeypatch.setattr(Decoders, "decode", counted)

    async def work() -> None:
        for salt, count in (("one", 1), ("one", 1), ("two", 2), ("two", 2), ("", 3), ("one", 3)):
            await prepared(backend, asking(RECEIPT), salt)
            assert len(decoded) == count

    run(work)


def test_the_cache_keeps_its_budget_and_what_was_used_last(llm: LLM) -> None:
    images = [prepare(load_pixels(Image(url_of(seed)), ImageLimits()), llm.vision) for seed in range(3)]
    cache = PreparedCache(2 * images[0].pixels_CHW.nbytes)
    keys = [(bytes([number]), False, "") for number in range(3)]
    cache.put(keys[0], images[0])
    cache.put(keys[1], images[1])
    assert cache.get(keys[0]) is images[0]
    cache.put(keys[2], images[2])
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) is images[0]
    assert cache.get(keys[2]) is images[2]
    small = PreparedCache(10)
    small.put(keys[0], images[0])
    assert small.get(keys[0]) is None
    assert CACHE_BYTES >= 20 * 3 * 1024 * 1024 * 4
