"""A server with OpenAI's chat API and no model, in a process of its own that can be killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen

ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    seconds = 0.0

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "stub"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(self.seconds)
        text = body["messages"][-1]["content"]
        if text == "refuse":
            self.answer({"error": {"message": "this is refused", "param": "messages"}}, 400)
            return
        message = {"role": "assistant", "content": f"<{text}>"}
        self.answer(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            }
        )

    def answer(self, told: object, status: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def stub_server(seconds: float = 0.0) -> Iterator[tuple[Popen[str], str]]:
    """Yield the process and its address."""
    process = Popen([sys.executable, "-m", "tests.cli.stub_server", str(seconds)], stdout=PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    Handler.seconds = float(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
