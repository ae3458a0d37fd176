"""Processes of the tests' own, forked from one that has imported PyTorch and Tessera.

A fresh interpreter spends seconds on these imports, and a test needs a process only to be killed or to be a rank. The
process that forks has a single thread and holds nothing of the tests. All processes have its hash seed, so that what
depends on the order of a set is alike in all: it needs interpreters of their own, as torchrun starts them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.errors import TesseraError

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch.distributed.checkpoint", "tests.finetune.small", "tests.forks"])


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


def _call(
    target: Callable[..., None], given: tuple[Any, ...], environment: dict[str, str], errors: Path | None
) -> None:
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
