"""Thousands of mixed requests, a third of them bad or left early: nothing is held and nothing grows.

The model is tiny and random, so that what is measured is the engine and the server around it.
`make soak` runs ten thousand and prints the figures; the default tests run a few hundred.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image as PILImage

from tessera.llm import LLM
from tessera.load import find_model
from tests.engine.tiny import tiny_model
from tests.loading import load_model
from tests.server.conftest import Running, start_server
from tests.server.test_hostile import data_url
from tests.server.test_http import idle, wait_until

CLIENTS = 16
SAMPLES = 20  # measurements of memory over the run
MAX_SLOPE = 1.0  # MB of resident memory per 1000 requests, over the second half
LEAVES_AFTER_S = 0.3
WORKERS = 16  # the server's threads that prepare requests


def tiny_llm(max_model_len: int = 1024) -> LLM:
    """Nano's tokenizer and formats over a random model a hundredth its size."""
    nano = load_model(find_model("nano"), dtype="float32", device="cpu")
    eyes = replace(
        nano.model.config.vision_encoder,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config = replace(
        nano.model.config, dim=32, n_layers=2, head_dim=8, hidden_dim=48, n_heads=4, n_kv_heads=2, vision_encoder=eyes
    )
    return LLM.from_parts(
        tiny_model(config),
        nano.tokenizer,
        name="tiny",
        max_num_seqs=8,
        max_queued_requests=64,
        max_model_len=max_model_len,
        kv_cache_bytes=2**18,  # small, so that requests are sent back and blocks are evicted
        image_cache_bytes=2**18,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = start_server(tiny_llm())
    yield running
    running.stop()


def images() -> list[str]:
    """Data URLs of small noisy images of many shapes."""
    made = []
    for number in range(24):
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (16 + 9 * number, 200 - 7 * number, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(file, ("PNG", "JPEG", "WEBP")[number % 3])
        made.append(data_url(file.getvalue()))
    return made


class Traffic:
    """Requests drawn from one seed, and what became of them."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.draw = random.Random(seed)
        self.images = images()
        self.ends: Counter[str] = Counter()

    def request(self) -> tuple[str, Any]:
        """A path, and a body or bytes that are none."""
        draw = self.draw
        text = draw.choice(["Hi", "What is the total?", "Read the text. " * 5, f"number {draw.random()}"])
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": draw.randint(1, 24)}
        chat |= {"stream": draw.random() < 0.4, "temperature": draw.choice([0, 1.0]), "ignore_eos": draw.random() < 0.3}
        kind = draw.choices(["text", "image", "several", "grammar", "tools", "plain", "bad"], [4, 4, 1, 1, 1, 2, 3])[0]
        if kind in ("image", "bad"):
            url = draw.choice(self.images)
            chat["messages"][0]["content"] = [{"type": "image_url", "image_url": url}, {"type": "text", "text": text}]
        if kind == "several":
            chat |= {"n": draw.randint(2, 4), "logprobs": True, "top_logprobs": 3, "temperature": 1.0}
        if kind == "grammar":
            schema = {"type": "object", "properties": {f"a{draw.randint(0, 99)}": {"type": "integer"}}}
            chat |= {"ignore_eos": False, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
        if kind == "tools":
            tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
            chat |= {"ignore_eos": False, "tools": [tool], "tool_choice": draw.choice(["auto", "required"])}
        if kind == "plain":
            return "/v1/completions", {"prompt": [text] * draw.randint(1, 3), "max_tokens": 8, "stream": chat["stream"]}
        if kind == "bad":
            return "/v1/chat/completions", self.bad(chat)
        return "/v1/chat/completions", chat

    def bad(self, chat: dict[str, Any]) -> Any:
        image = chat["messages"][0]["content"][0]
        wrong = self.draw.randint(0, 5)
        if wrong == 0:
            image["image_url"] = image["image_url"][: len(image["image_url"]) // 2 // 4 * 4]
        elif wrong == 1:
            image["image_url"] = "http://127.0.0.1/secret.png"
        elif wrong == 2:
            chat["temperature"] = "hot"
        elif wrong == 3:
            chat["messages"][0]["content"] = "word " * 2000
        elif wrong == 4:
            chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": {"type": "robot"}}}
        else:
            return json.dumps(chat).encode()[:-5]
        return chat

    async def ask_for_documents(self, client: httpx2.AsyncClient) -> None:
        """A request to the routes of documents; a file that is sent is taken away again."""
        which, image = self.draw.randint(0, 6), self.draw.choice(self.images)
        bodies = {
            0: ("/v1/extractions", {"input_file_ids": ["none"], "preset": "invoice"}),
            1: ("/v1/batches", {"input_file_id": "none", "endpoint": "/v1/ocr", "completion_window": "24h"}),
            2: ("/v1/ocr", {"document": {"type": "document_url", "document_url": image[: len(image) // 8 * 4]}}),
            3: ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
                {"type": "file", "file": {"file_data": image}}, {"type": "text", "text": "Hi"}]}], "max_tokens": 4}),
        }  # fmt: skip
        if which in bodies:
            response = await client.post(self.url + bodies[which][0], json=bodies[which][1])
        elif which == 4:
            response = await client.get(f"{self.url}/v1/presets")
        else:
            response = await client.post(
                f"{self.url}/v1/files", files={"file": ("a.png", b"x" * 1000)}, data={"purpose": "user_data"}
            )
            if response.status_code == 200:
                await client.delete(f"{self.url}/v1/files/{response.json()['id']}")
        self.ends[str(response.status_code)] += 1

    async def send(self, client: httpx2.AsyncClient) -> None:
        if self.draw.random() < 0.15:
            await self.ask_for_documents(client)
            return
        path, body = self.request()
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sending = client.post(self.url + path, content=content, headers={"content-type": "application/json"})
        if self.draw.random() < 0.2:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sending, self.draw.random() * LEAVES_AFTER_S)
            self.ends["left"] += 1
            return
        response = await sending
        self.ends[str(response.status_code)] += 1
        if response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n"), response.text[-300:]
        if response.status_code == 429:
            await asyncio.sleep(0.05)

    async def run(self, count: int) -> None:
        async with httpx2.AsyncClient(timeout=300, limits=httpx2.Limits(max_connections=CLIENTS)) as client:
            left = count

            async def work() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await self.send(client)

            await asyncio.gather(*[work() for _ in range(CLIENTS)])


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def held(running: Running) -> tuple[int, int, int]:
    """Threads, open files and requests that something still waits for."""
    return threading.active_count(), len(os.listdir("/proc/self/fd")), len(running.llm._loop._handles)


@pytest.mark.parametrize("count", [240, pytest.param(30_000, marks=pytest.mark.slow)])
def test_nothing_is_held_and_nothing_grows(running: Running, count: int) -> None:
    traffic, stats = Traffic(running.url, seed=count), running.llm.stats
    asyncio.run(traffic.run(100))  # all caches are filled, all threads are started
    wait_until(lambda: idle(running))
    before, began, sizes = held(running), time.monotonic(), [resident_mb()]
    samples = SAMPLES if count >= 10_000 else 2  # each collects all garbage of the test process, which takes long
    for _ in range(samples):
        asyncio.run(traffic.run(count // samples))
        sizes.append(resident_mb())
    wait_until(lambda: idle(running))
    time.sleep(0.5)  # the last connections are taken down
    blocks, after = stats().blocks, held(running)
    half = sizes[-max(2, len(sizes) // 2) :]
    slope = np.polyfit(np.arange(len(half)), half, 1)[0] * samples / count * 1000
    print(f"\n{count} requests in {time.monotonic() - began:.0f} s: {dict(sorted(traffic.ends.items()))}")
    print(
        f"resident MB: {' '.join(f'{size:.0f}' for size in sizes)}; slope at the end {slope:+.2f} MB per 1000 requests"
    )
    print(f"blocks {blocks}; sent back {stats().preemptions}; threads, files, waiting {before} -> {after}")
    print(f"engine: {stats().finished}, grammars kept {len(running.llm._loop.engine.grammars._known)}")
    assert set(traffic.ends) <= {"200", "400", "404", "429", "left"}
    assert (blocks.used, blocks.free + blocks.cached) == (0, blocks.total)
    assert after[2] == 0
    assert after[0] <= before[0] + WORKERS  # they are started one by one, as they are needed
    assert after[1] <= before[1] + 2
    assert running.llm.alive
    if count >= 10_000:
        assert abs(slope) < MAX_SLOPE
