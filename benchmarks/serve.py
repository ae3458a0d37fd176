"""`python -m benchmarks.serve`: the server under load, and its overhead over the bare engine.

Server and engine run in this process, the client in another, so that its work does not count as the
server's. Every image is new (a few pixels differ), so that no cache helps unless the cache is
being measured. One core is left to the client. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import torch
import uvicorn
from PIL import Image as PILImage

import tessera
from benchmarks.traffic import Load, Reply, drive
from tessera.errors import MeasurementError
from tessera.llm import LLM
from tessera.sampling import SamplingParams
from tessera.server.app import create_app
from tessera.server.backend import LocalBackend
from tessera.server.run import http_config
from tessera.server.settings import Settings

RECEIPT = Path(tessera.__file__).parent / "nano" / "demo" / "receipt.png"
TOKENS = 48  # of each reply
TICK_S = 0.001
PHOTO = (4000, 3000)  # a phone's
QUESTIONS = 10


class Served:
    """A server in a thread of this process, on the same event loop as in production."""

    def __init__(self, llm: LLM, settings: Settings) -> None:
        self._server = uvicorn.Server(http_config(create_app(LocalBackend(llm), settings), settings, port=0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise MeasurementError("the server ended before it had begun; its last words are above.")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def longest_stall_s(self, during: Callable[[], object]) -> float:
        """Return the longest delay of the event loop while work runs."""
        ticking = asyncio.run_coroutine_threadsafe(self._tick(over := threading.Event()), self._loop)
        try:
            during()
        finally:
            over.set()
        return ticking.result()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())

    async def _tick(self, over: threading.Event) -> float:
        longest_s = 0.0
        while not over.is_set():
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            longest_s = max(longest_s, time.perf_counter() - due)
        return longest_s


class Bodies:
    """Chats about images never seen before."""

    def __init__(self) -> None:
        self._receipt = np.array(PILImage.open(RECEIPT).convert("RGB"))
        self._count = 0

    def chats(self, count: int) -> list[dict[str, Any]]:
        return [chat(self._new_receipt(), TOKENS) for _ in range(count)]

    def _new_receipt(self) -> str:
        self._count += 1
        pixels = self._receipt.copy()
        pixels[0, :24, 0] = [255 * (self._count >> bit & 1) for bit in range(24)]
        return as_url(pixels, "PNG")


def chat(url: str, tokens: int, question: str = "What is the total?") -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": tokens, "ignore_eos": True}


def as_url(pixels: np.ndarray[Any, Any], kind: str) -> str:
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def photos(count: int) -> list[str]:
    """Make images of a phone's size, noisy enough to be megabytes as JPEG."""
    made = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 255, (PHOTO[1] // 4, PHOTO[0] // 4, 3), dtype=np.uint8)
        made.append(as_url(coarse.repeat(4, 0).repeat(4, 1), "JPEG"))
    return made


def bare(llm: LLM, bodies: Sequence[dict[str, Any]], concurrency: int) -> float:
    """Measure the seconds for the same chats without a server, from as many threads."""
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    with ThreadPoolExecutor(concurrency) as threads:
        began = time.perf_counter()
        list(threads.map(lambda body: llm.chat(body["messages"], params), bodies))
        return time.perf_counter() - began


def overhead(client: Client, bodies: Bodies, concurrency: int, repeats: int, count: int) -> tuple[float, float]:
    """Measure median seconds of the bare engine and of the server for `count` chats, in turn."""
    engine_s, server_s = [], []
    for _ in range(repeats):
        engine_s.append(bare(client.llm, bodies.chats(count), concurrency))
        server_s.append(client.drive(bodies.chats(count), concurrency=concurrency).seconds)
    return median(engine_s), median(server_s)


class Client:
    """The client process, and the server it queries."""

    def __init__(self, llm: LLM, served: Served, process: ProcessPoolExecutor) -> None:
        self.llm = llm
        self.served = served
        self._process = process

    def drive(self, bodies: Sequence[dict[str, Any]], **how: Any) -> Load:
        return self._process.submit(drive, self.served.url, bodies, **how).result()


@contextmanager
def started() -> Iterator[Client]:
    llm = LLM("nano", max_num_seqs=32, max_queued_requests=1024)
    served = Served(llm, Settings(access_log=False, max_num_queued_reqs=1024))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield Client(llm, served, process)
    finally:
        served.close()


def report_load(client: Client, bodies: Bodies, count: int) -> None:
    print("| chats at once | first token, median / 95 % | between tokens, median / 95 % | tokens/s | chats/s |")
    print("| --- | --- | --- | --- | --- |")
    best = 0.0
    for concurrency in (1, 8, 32):
        load = client.drive(bodies.chats(max(count, 2 * concurrency)), concurrency=concurrency)
        best = max(best, load.chats_per_s)
        print(row(str(concurrency), load), flush=True)
    load = client.drive(bodies.chats(2 * count), rate=best / 2)
    print(row(f"random, {best / 2:.1f} a second", load), flush=True)


def row(name: str, load: Load) -> str:
    times = [f"{1000 * of(0.5):.0f} / {1000 * of(0.95):.0f} ms" for of in (load.first_s, load.gap_s)]
    return f"| {name} | {' | '.join(times)} | {load.tokens_per_s:.0f} | {load.chats_per_s:.2f} |"


def report_overhead(client: Client, bodies: Bodies, count: int, repeats: int) -> None:
    for concurrency in (1, 8):
        engine_s, server_s = overhead(client, bodies, concurrency, repeats, max(count, concurrency))
        print(
            f"{count} chats, {concurrency} at once: bare engine {engine_s:.2f} s, server {server_s:.2f} s, "
            f"{server_s / engine_s - 1:+.1%} (medians of {repeats}, in turn; goal +10 %)",
            flush=True,
        )


def report_stall(client: Client) -> None:
    urls = photos(6)
    size_mb = len(urls[0]) / 1e6
    idle_s = client.served.longest_stall_s(lambda: time.sleep(1))
    chats = [chat(url, 2) for url in urls * 2]
    busy_s = client.served.longest_stall_s(lambda: client.drive(chats, concurrency=4))
    print(
        f"event loop: late by at most {1000 * busy_s:.0f} ms while {2 * len(urls)} images of "
        f"{PHOTO[0]} x {PHOTO[1]} ({size_mb:.1f} MB as sent) are read and decoded, 4 at once "
        f"({1000 * idle_s:.1f} ms when idle; goal 50 ms)",
        flush=True,
    )


def report_prefix(client: Client, bodies: Bodies) -> None:
    """Ask ten questions about one image, and report metrics and times."""
    body = bodies.chats(1)[0]
    before = count_encoded(client.served.url)
    replies: list[Reply] = []
    for number in range(QUESTIONS):
        body["messages"][0]["content"][1]["text"] = f"What is the total? ({number})"
        replies += client.drive([body], concurrency=1).replies
    details = [reply.usage["prompt_tokens_details"] for reply in replies]
    encoded = count_encoded(client.served.url) - before
    later_s = median(reply.first_s for reply in replies[1:])
    print(
        f"{QUESTIONS} questions about one image: {encoded:.0f} image encode; {details[0]['image_tokens']} image "
        f"tokens; cached prompt tokens {', '.join(str(each['cached_tokens']) for each in details)}; first token after "
        f"{1000 * replies[0].first_s:.0f} ms, then {1000 * later_s:.0f} ms (median)",
        flush=True,
    )


def count_encoded(url: str) -> float:
    """Return the images encoded so far, from the server's metrics."""
    text = httpx2.get(url + "/metrics").text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith("tessera:images_encoded")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of a minute; its numbers mean little")
    quick = parser.parse_args().quick
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores - 1))
    print(
        f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} for the engine, torch {torch.__version__}, "
        f"tessera {tessera.__version__}; nano, images of 210 tokens, replies of {TOKENS}"
    )
    bodies = Bodies()
    with started() as client:
        client.drive(bodies.chats(8), concurrency=4)  # warm
        report_load(client, bodies, 8 if quick else 64)
        report_overhead(client, bodies, 8 if quick else 48, 1 if quick else 7)
        report_stall(client)
        report_prefix(client, bodies)


if __name__ == "__main__":
    main()
