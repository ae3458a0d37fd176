"""What the tests of batches share: lines, OpenAI's client at a server, and a server that can be killed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai.types import Batch

from tests.server.conftest import Running, asking

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str | None, text: str = "What is the total?", **more: Any) -> dict[str, Any]:
    body = {"max_tokens": 4, **asking(text), **more.pop("body", {})}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def lines(told: Sequence[Any]) -> bytes:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in told).encode()


def many(count: int, **body: Any) -> list[dict[str, Any]]:
    """Lines without pictures, which are answered at once."""
    text = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "ignore_eos": True} | body
    return [{"custom_id": f"n{number}", "method": "POST", "url": CHAT, "body": text} for number in range(count)]


def rows(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(each) for each in text.splitlines()]


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


class Api:
    """OpenAI's client at a server, and what the tests do with it."""

    def __init__(self, running: Running | Process, key: str = "any") -> None:
        self.client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)

    def create(self, told: Sequence[Any], **more: Any) -> Batch:
        file = self.client.files.create(file=("in.jsonl", lines(told)), purpose="batch")
        return self.client.batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **more
        )

    def ended(self, batch: Batch, seconds: float = 60) -> Batch:
        def look() -> Batch | None:
            now = self.client.batches.retrieve(batch.id)
            return now if now.status in ENDED else None

        found: Batch = until(look, seconds)
        return found

    def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        return [] if file_id is None else rows(self.client.files.content(file_id).read())


class Process:
    """`tessera serve` in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tessera", "serve", "--port", str(port), "--files-dir", str(folder)]
        command += ["--kv-cache-bytes", str(2**25), "--max-num-seqs", "4"]
        self.log = (folder.parent / "log").open("ab")
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)

    def wait(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, "the server ended"
            try:
                return client.get(self.url + "/ready").status_code == 200
            except httpx2.HTTPError:
                return False

        with httpx2.Client(verify=False) as client:
            until(ready, 200)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()
