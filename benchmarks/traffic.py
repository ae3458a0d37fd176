"""A load generator: streamed chats from a separate process, recording each token's arrival.

Closed loop: a fixed number is always running, and the next begins when one ends. Open loop: requests
arrive at random times at a given rate (Poisson), regardless of earlier ones, as with people.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Reply:
    """Seconds from sending the request to each piece of text, and to the end."""

    pieces_s: tuple[float, ...]
    end_s: float
    usage: dict[str, Any]

    @property
    def first_s(self) -> float:
        return self.pieces_s[0]

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.pieces_s, self.pieces_s[1:], strict=False)]


@dataclass(frozen=True)
class Load:
    """The result of one run; `seconds` covers the whole run."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return float(sum(reply.usage["completion_tokens"] for reply in self.replies) / self.seconds)

    @property
    def chats_per_s(self) -> float:
        return len(self.replies) / self.seconds

    def first_s(self, share: float) -> float:
        """Return the time to the first token within which this share of the replies began."""
        return quantile([reply.first_s for reply in self.replies], share)

    def gap_s(self, share: float) -> float:
        return quantile([gap for reply in self.replies for gap in reply.gaps_s], share)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value not exceeded by at least this share; the median for a half."""
    return median(values) if share == 0.5 else sorted(values)[min(int(share * len(values)), len(values) - 1)]


def drive(url: str, bodies: Sequence[dict[str, Any]], *, concurrency: int = 0, rate: float = 0.0) -> Load:
    """Send all, `concurrency` at a time or `rate` per second; raises RuntimeError for an invalid reply."""
    return asyncio.run(_drive(url, bodies, concurrency, rate))


async def _drive(url: str, bodies: Sequence[dict[str, Any]], concurrency: int, rate: float) -> Load:
    import httpx2

    contents = [json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}) for body in bodies]
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
        began = time.perf_counter()
        if rate:
            replies = await _open_loop(client, url, contents, rate)
        else:
            replies = await _closed_loop(client, url, contents, concurrency)
        return Load(tuple(replies), time.perf_counter() - began)


async def _closed_loop(client: Any, url: str, contents: Sequence[str], concurrency: int) -> list[Reply]:
    waiting, replies = iter(contents), []

    async def work() -> None:
        for content in waiting:
            replies.append(await _ask(client, url, content))

    await asyncio.gather(*[work() for _ in range(concurrency)])
    return replies


async def _open_loop(client: Any, url: str, contents: Sequence[str], rate: float) -> list[Reply]:
    pauses, tasks = random.Random(0), []
    for content in contents:
        tasks.append(asyncio.create_task(_ask(client, url, content)))
        await asyncio.sleep(pauses.expovariate(rate))
    return await asyncio.gather(*tasks)


async def _ask(client: Any, url: str, content: str) -> Reply:
    began, pieces, usage = time.perf_counter(), [], None
    headers = {"content-type": "application/json"}
    async with client.stream("POST", f"{url}/v1/chat/completions", content=content, headers=headers) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            usage = event.get("usage") or usage
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                pieces.append(time.perf_counter() - began)
    if not pieces or usage is None:
        raise RuntimeError(f"a request of the load got no reply but status {response.status_code}")
    return Reply(tuple(pieces), time.perf_counter() - began, usage)
