"""A real server on a real socket over the bundled model, shared by all tests of it."""

from __future__ import annotations

import base64
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from tessera.llm import LLM
from tessera.server.app import create_app
from tessera.server.backend import LocalBackend
from tessera.server.listen import address_of, bind
from tessera.server.run import http_config, open_model
from tessera.server.settings import Settings

DEMO = Path(__file__).parents[2] / "tessera" / "nano" / "demo"
RECEIPT_TOKENS = 20 * (18 + 1)  # 208x230 pixels in patches of 12: 20 rows of 18 and a break
RECEIPT = "data:image/png;base64," + base64.b64encode((DEMO / "receipt.png").read_bytes()).decode()
CHART = "data:image/png;base64," + base64.b64encode((DEMO / "chart.png").read_bytes()).decode()
SMALL = {"max_num_seqs": 4, "max_num_queued_reqs": 16, "kv_cache_bytes": 2**25, "stuck_after_s": 120}


def asking(text: str = "What is the total?", *urls: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request; without `urls` about the receipt."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls or (RECEIPT,)]
    return {"messages": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}], **more}


@dataclass
class Running:
    """A server that answers at `url`, and what it stands on."""

    url: str
    llm: LLM
    server: uvicorn.Server
    thread: threading.Thread
    files: Path
    made: Path | None = None  # a folder to remove at the end

    def post(self, path: str, body: Any, **more: Any) -> httpx2.Response:
        with httpx2.Client(timeout=300) as client:
            return client.post(self.url + path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        with httpx2.Client(timeout=300) as client:
            return client.get(self.url + path, **more)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()
        if self.made is not None:
            shutil.rmtree(self.made, ignore_errors=True)


def run_server(**changes: Any) -> Running:
    """Start a server with these settings over a small cache, on a free port."""
    settings = Settings(**{**SMALL, "port": 0, "access_log": False, **changes})
    return start_server(open_model(settings), settings)


def start_server(llm: LLM, settings: Settings | None = None) -> Running:
    """Serve a model that is already in memory."""
    settings = settings or Settings(access_log=False, port=0)
    made = None
    if settings.files_dir is None:  # never the user's own
        made = Path(tempfile.mkdtemp(prefix="tessera-files-"))
        settings = settings.model_copy(update={"files_dir": made / "files"})
    server = uvicorn.Server(http_config(create_app(LocalBackend(llm), settings), settings))
    sockets = bind(settings)
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    return Running(address_of(sockets, settings), llm, server, thread, settings.files_dir or Path(), made)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    running = run_server()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def locked() -> Iterator[Running]:
    """A server that asks for a key."""
    running = run_server(api_key=("secret-one", "secret-two"), max_body_bytes=200_000, metrics_need_key=True)
    yield running
    running.stop()
