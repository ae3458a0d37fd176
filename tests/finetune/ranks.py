"""Runs on several ranks: processes with the environment that torchrun gives, started by `launch`."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tessera.errors import TesseraError
from tessera.finetune.packing import Pack
from tessera.finetune.run import Run
from tessera.finetune.settings import Settings
from tessera.training.ranks import joined
from tests import forks
from tests.finetune.small import make_run

ROOT = Path(__file__).parents[2]


def launch(size: int, folder: Path, runs: Mapping[str, Mapping[str, Any]], fault: str = "") -> list[tuple[int, str]]:
    """Do the runs, each in the folder of its name, on so many ranks; return each rank's exit code and its errors.

    `fault` "kill 4" ends rank 1 by SIGKILL before step 4 of the last run; "fail 4" is an error there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as said:
        errors = [Path(said, str(rank)) for rank in range(size)]
        processes: list[BaseProcess] = []
        try:
            for rank, path in enumerate(errors):
                own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(forks.start(main, folder, dict(runs), fault, errors=path, environment=own))
            codes = [forks.ended(process, 240) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return list(zip(codes, (path.read_text() for path in errors), strict=True))


def main(folder: Path, runs: dict[str, dict[str, Any]], fault: str) -> None:
    with joined(torch.device("cpu")) as ranks:
        for name, options in runs.items():
            run = make_run(folder, folder / name, Settings(**options), ranks)
            if fault and name == [*runs][-1] and not ranks.first:
                break_down(run, *fault.split())
            run.go()


def break_down(run: Run, how: str, step: str) -> None:
    own = run._packs

    def packs(number: int) -> list[list[Pack]]:
        if number == int(step):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise TesseraError("kitten.png is no image; leave it out.")
        return own(number)

    run._packs = packs  # type: ignore[method-assign]
