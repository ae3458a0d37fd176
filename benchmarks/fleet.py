"""`python -m benchmarks.fleet`: what a page costs the machine that reads files and keeps the journal, kills included.

One-page PDFs with text layers, scans as PNG, and files that cannot be read are extracted through a server that answers
at once, so that no model's time is in it. A second run is killed again and again; its rows must be those of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from zlib import crc32

from PIL import Image as PILImage
from PIL import ImageDraw

from benchmarks.search_pages import drawn_pages, written_pdf

SCHEMA = {"properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
BAD = (b"", b"%PDF-1.4 damaged", b"plain text")
IN_FLIGHT = 8


class Answering(BaseHTTPRequestHandler):
    """OpenAI's chat API without a model: the same reply to the same request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "stub"}]})

    def do_POST(self) -> None:
        number = crc32(self.rfile.read(int(self.headers["content-length"])))
        record = json.dumps({"vendor": f"Shop {number % 1000}", "total": number % 10_000 / 100})
        message = {"role": "assistant", "content": record}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        self._answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    def _answer(self, told: object) -> None:
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


def serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def write_files(folder: Path, count: int) -> None:
    """Ten PDFs, nine scans and one file that cannot be read in each twenty."""
    for number, page in enumerate(drawn_pages(count)):
        at = folder / f"{number // 500:03}"
        at.mkdir(parents=True, exist_ok=True)
        if number % 20 < 10:
            (at / f"{number:06}.pdf").write_bytes(written_pdf([page]))
        elif number % 20 < 19:
            image = PILImage.new("RGB", (620, 877), "white")
            ImageDraw.Draw(image).text((60, 60), f"Invoice {number}\nTotal {number}.50", fill="black")
            image.save(at / f"{number:06}.png")
        else:
            (at / f"{number:06}.pdf").write_bytes(BAD[number // 20 % len(BAD)])


@dataclass(frozen=True)
class Ran:
    """One process: how it ended, and what it took, its children included."""

    code: int
    seconds: float
    busy_seconds: float
    megabytes: float


def run(paths: Sequence[Path], out: Path, url: str, *, kill_at: int | None = None) -> Ran:
    """Extract; with `kill_at`, kill the process once so many items are done."""
    schema = out.with_name("schema.json")
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    words = ["extract", *map(str, paths), "-s", str(schema), "-o", str(out), "--endpoint", url, "-m", "stub"]
    words += ["-j", str(IN_FLIGHT), "--json", "-q"]
    began = time.perf_counter()
    process = Popen([sys.executable, "-m", "tessera", *words], stdout=PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        for line in process.stdout or ():
            if kill_at is not None and json.loads(line).get("done", 0) >= kill_at:
                process.send_signal(signal.SIGKILL)
                break
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    return Ran(process.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measure(folder: Path, count: int, kills: int) -> list[str]:
    documents = folder / "documents"
    write_files(documents, count)
    parts = sorted(documents.iterdir())
    server = Popen([sys.executable, "-m", "benchmarks.fleet", "--serve"], stdout=PIPE, text=True)
    with server:
        try:
            url = server.stdout.readline().strip() if server.stdout is not None else ""
            small = documents / "small"
            write_files(small, 20)
            begun = run([small], folder / "small.jsonl", url)
            whole = run(parts, folder / "whole.jsonl", url)
            killed = [
                run(parts, folder / "killed.jsonl", url, kill_at=count * (number + 1) // (kills + 1))
                for number in range(kills)
            ]
            last = run(parts, folder / "killed.jsonl", url)
        finally:
            server.kill()
    rows = (folder / "whole.jsonl").read_bytes()
    same = "equal" if rows == (folder / "killed.jsonl").read_bytes() else "DIFFERENT"
    pages = count - count // 20
    busy = 1000 * (whole.busy_seconds - begun.busy_seconds) / (pages - 19)
    size = (folder / "whole.jsonl.journal").stat().st_size
    return [
        f"{count:,} files, {pages:,} pages: {busy:.1f} ms of processor time a page, {pages / whole.seconds:.1f} pages "
        f"a second, {size / pages:,.0f} bytes a page in the journal; {whole.megabytes:.0f} MB at most, "
        f"{begun.megabytes:.0f} MB over 20 files.",
        f"Killed {sum(ran.code == -signal.SIGKILL for ran in killed)} times, then {last.megabytes:.0f} MB at most: the "
        f"{len(rows.splitlines()):,} rows are {same}.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="be the server, and say where")
    given = parser.parse_args(argv)
    if given.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as made:
        print("\n".join(measure(Path(made), given.files, given.kills)))


if __name__ == "__main__":
    main()
