"""Processes of the tests' own, forked from one that has imported PyTorch and Tessera.

A fresh interpreter spends seconds of processor time on these imports. A test that needs a process only to be killed,
to be a rank, or to be a command beside this one, is spared them; tests/cli/test_start.py starts commands afresh. The
process that forks has a single thread and holds nothing of the tests. All processes have its hash seed, so that what
depends on the order of a set is alike in all: it needs interpreters of their own, as torchrun starts them.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.cli.app import main
from tessera.errors import TesseraError

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch.distributed.checkpoint", "tests.finetune.small", "tessera.cli.ask", "tessera.server.app",
     "tessera.server.run", "tests.forks"]
)  # fmt: skip


def start(
    target: Callable[..., None], *given: Any, environment: Mapping[str, str] | None = None, errors: Path | None = None
) -> ForkServerProcess:
    """Call a function of a module in a process of its own, on one thread; its errors are appended to the file."""
    process = _CONTEXT.Process(target=_call, args=(target, given, dict(os.environ) | dict(environment or {}), errors))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 120) -> int:
    """Return the exit code of a process; one that has not ended by then is killed, and is an error."""
    try:
        process.join(seconds)
        code = process.exitcode
    finally:
        process.kill()  # the interpreter waits at its own end for each process that still runs
    assert code is not None, f"process {process.pid} did not end within {seconds} s"
    return code


class Command:
    """A command that runs: `tessera` with arguments, or a program's path. It has what the tests use of a Popen."""

    def __init__(self, name: str | Path, *arguments: str, folder: Path, stdin: str = "") -> None:
        """Start it in a folder; what it reads and writes are files elsewhere."""
        self._files = tempfile.TemporaryDirectory()
        streams = [Path(self._files.name, stream) for stream in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.touch()
        streams[0].write_text(stdin)
        _, self._out, self._errors = streams
        self.args = [str(name), *arguments]
        given = (_run, (self.args, folder, streams), dict(os.environ), None)
        self._process = _CONTEXT.Process(target=_call, args=given, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def stdout(self) -> str:
        """All that it has written until now."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout, self.stdout, self.stderr)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run(
    name: str | Path, *arguments: str, folder: Path | None = None, stdin: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = Command(name, *arguments, folder=folder or Path.cwd(), stdin=stdin)
    try:
        code = command.wait(timeout)
    finally:
        command.kill()
    return subprocess.CompletedProcess(command.args, code, command.stdout, command.stderr)


def _call(
    target: Callable[..., None], given: tuple[Any, ...], environment: dict[str, str], errors: Path | None
) -> None:
    gc.freeze()  # what was imported stays, and need not be looked through in every process
    os.environ.clear()  # it is the one of the process that forks, from when that was started
    os.environ.update(environment)
    torch.set_num_threads(1)
    np.random.seed()  # as Python does for its own numbers: else all would draw the same
    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    try:
        target(*given)
    except TesseraError as error:
        sys.exit(str(error))


def _run(argv: list[str], folder: Path, streams: list[Path]) -> None:
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR | os.O_APPEND if number else os.O_RDONLY), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.argv = argv
    if argv[0] == "tessera":
        main()
    else:
        runpy.run_path(argv[0], run_name="__main__")
