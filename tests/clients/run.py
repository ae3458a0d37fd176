"""The client suite: real clients, unmodified, each in its own environment, against a real `tessera serve`.

`make test-clients` makes the environments and runs this. Each client's script prints a JSON line for each feature;
here they become one table, client by feature, which `--table` puts into a document. Nano was never taught tools, so
what is held is the form and the round trip, not what it says.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / "build" / "clients"
RECEIPT = ROOT / "tessera" / "nano" / "demo" / "receipt.png"
KEY = "the-key-of-the-suite"
KNOWN_NAME = "pixtral-12b-2409"  # LlamaIndex's Mistral integration refuses names that are not Mistral's
QUESTION = "What is the total?"
FEATURES = ("chat", "stream", "schema", "tools", "errors", "models", "responses", "batches", "ocr")
START_S, SCRIPT_S = 300, 900  # generous: a loaded machine is slow, not broken
CURRENCIES = {"type": "string", "enum": ["EUR", "USD", "GBP"]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "convert",
            "description": "Converts the total of a receipt into another currency.",
            "parameters": {
                "type": "object",
                "properties": {"to": CURRENCIES, "rounded": {"type": "boolean", "enum": [True, False]}},
                "required": ["to", "rounded"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "find_rate",
            "description": "Finds the rate between two currencies.",
            "parameters": {
                "type": "object",
                "properties": {"source": CURRENCIES, "target": CURRENCIES},
                "required": ["source", "target"],
                "additionalProperties": False,
            },
        },
    },
]


@dataclass
class Client:
    """A client: its name, its package, its script with arguments, and the environment it runs in."""

    name: str
    package: str
    script: str
    environment: str
    version: str = "?"
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def runs_on_node(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def failed(self) -> list[str]:
        return [name for name, result in self.results.items() if not result["ok"]]


CLIENTS = (
    Client("openai (Python)", "openai", "use_openai.py", "openai"),
    Client("openai (JavaScript)", "openai", "use_openai.mjs", "node"),
    Client("anthropic (Python)", "anthropic", "use_anthropic.py", "anthropic"),
    Client("anthropic (JavaScript)", "@anthropic-ai/sdk", "use_anthropic.mjs", "node"),
    Client("mistralai (Python)", "mistralai", "use_mistralai.py", "openai"),
    Client("mistralai (JavaScript)", "@mistralai/mistralai", "use_mistralai.mjs", "node"),
    Client("LangChain, langchain-openai", "langchain-openai", "use_langchain_openai.py", "langchain-openai"),
    Client(
        "LangChain, langchain-mistralai", "langchain-mistralai", "use_langchain_mistralai.py", "langchain-mistralai"
    ),
    Client("LiteLLM", "litellm", "use_litellm.py", "litellm"),
    Client("LlamaIndex, openai-like", "llama-index-llms-openai-like", "use_llama_index.py openai-like", "llama-index"),
    Client("LlamaIndex, mistralai", "llama-index-llms-mistralai", "use_llama_index.py mistralai", "llama-index"),
    Client("AI SDK, openai-compatible", "@ai-sdk/openai-compatible", "use_ai_sdk.mjs", "node"),
)


class Server:
    """`tessera serve` with nano, as a process of its own, until the block ends."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._command = [sys.executable, "-m", "tessera", "serve", "--port", str(port), "--api-key", KEY]
        self._command += ["--kv-cache-bytes", str(2**26), "--files-dir", str(log.with_name("files"))]
        for name in ("nano", KNOWN_NAME):
            self._command += ["--served-model-name", name]

    def __enter__(self) -> Server:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def ask(self, path: str, body: Any = None) -> Any:
        """What plain HTTP gets: decoded JSON, or text."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=SCRIPT_S) as reply:
            text = reply.read().decode()
        return json.loads(text) if reply.headers.get_content_type() == "application/json" else text

    def in_use(self) -> list[str]:
        """Requests that still run or wait, which nobody asked for any more."""
        counts = [line for line in self.ask("/metrics").splitlines() if line.startswith("tessera:num_requests_")]
        return [line for line in counts if not line.endswith(" 0.0")]

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            self.ask("/ready")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True


def question_of(server: Server) -> dict[str, Any]:
    """What every script is told, with the answer that plain HTTP gets to the question they ask."""
    url = "data:image/png;base64," + base64.b64encode(RECEIPT.read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    reply = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    return {
        "url": server.url,
        "key": KEY,
        "model": reply["model"],
        "known_name": KNOWN_NAME,
        "image": str(RECEIPT),
        "question": QUESTION,
        "answer": reply["choices"][0]["message"]["content"],
        "image_tokens": reply["usage"]["prompt_tokens_details"]["image_tokens"],
        "tools": TOOLS,
    }


def try_client(client: Client, suite: dict[str, Any]) -> None:
    """Run a client's script and take in what it reports; a script that ends before its time fails as a whole."""
    if client.runs_on_node:
        folder = ENVIRONMENTS / client.environment
        for script in HERE.glob("*.mjs"):  # Node looks for packages beside the script
            shutil.copy(script, folder)
        program = ["node"]
    else:
        folder = HERE
        program = [str(ENVIRONMENTS / client.environment / "bin" / "python")]
    command = [*program, *client.script.split()]
    client.version = version_of(client)
    # A machine's own keys and addresses for these services must not leak into the test.
    foreign = ("OPENAI_", "MISTRAL_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"CLIENT_SUITE": json.dumps(suite), "PYTHONDONTWRITEBYTECODE": "1", "NO_PROXY": "127.0.0.1"}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AI_SDK_LOG_WARNINGS": "false"}
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SCRIPT_S)
        output, complaints = ended.stdout, ended.stderr
    except subprocess.TimeoutExpired:
        output, complaints, ended = "", f"{client.script} took more than {SCRIPT_S} s", None
    for line in output.splitlines():
        if line.startswith('{"feature"'):
            result = json.loads(line)
            client.results[result["feature"]] = result
    if ended is None or ended.returncode or not client.results:
        client.results["chat"] = {"feature": "chat", "ok": False, "seen": f"{client.script} did not run to its end"}
    if client.failed:
        print(complaints, file=sys.stderr)


def version_of(client: Client) -> str:
    folder = ENVIRONMENTS / client.environment
    if client.runs_on_node:
        package = folder / "node_modules" / client.package / "package.json"
        return str(json.loads(package.read_text(encoding="utf-8"))["version"])
    text = "import sys, importlib.metadata; print(importlib.metadata.version(sys.argv[1]))"
    command = [str(folder / "bin" / "python"), "-c", text, client.package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def table(clients: Sequence[Client]) -> str:
    """Client by feature in Markdown; a dash: the client has no such feature, or the suite does not use it."""
    rows = ["| client | version | " + " | ".join(FEATURES) + " |", "|---|---" + "|:-:" * len(FEATURES) + "|"]
    for client in clients:
        marks = [client.results.get(name, {"ok": None})["ok"] for name in FEATURES]
        cells = [{True: "ok", False: "**fails**", None: "-"}[mark] for mark in marks]
        rows.append(f"| {client.name} | {client.version} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def write_table(file: Path, rows: str) -> None:
    text = file.read_text(encoding="utf-8")
    head, begin, rest = text.partition("<!-- table: written by make test-clients -->\n")
    _, end, tail = rest.partition("<!-- end of the table -->\n")
    if not begin or not end:
        raise SystemExit(f"{file} has no marks for the table")
    file.write_text(head + begin + rows + end + tail, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only the clients whose name or script has one of these words")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file, between its marks")
    arguments = parser.parse_args()
    if arguments.words and arguments.table:
        parser.error("a table of some of the clients would replace that of all; leave one of the two out.")
    chosen = [
        client
        for client in CLIENTS
        if not arguments.words or any(word in client.name + client.script for word in arguments.words)
    ]
    log = ENVIRONMENTS / "server.log"
    with Server(log) as server:
        suite = question_of(server)
        for client in chosen:
            began = time.monotonic()
            try_client(client, suite)
            print(f"{client.name} {client.version}, {time.monotonic() - began:.0f} s")
            for name, result in client.results.items():
                print(f"  {name:10} {'ok    ' if result['ok'] else 'FAILED'}  {result['seen'][:300]}", flush=True)
        left = server.in_use()
    print("\n" + table(chosen))
    if arguments.table:
        write_table(arguments.table, table(chosen))
    if left:
        print(f"requests are left behind: {left}")
    if left or any(client.failed for client in chosen):
        raise SystemExit(f"something failed; the server's log is {log}")


if __name__ == "__main__":
    main()
