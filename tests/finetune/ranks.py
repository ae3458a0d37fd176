"""Runs on several ranks: processes with the environment that torchrun gives, started by `launch`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tessera.errors import TesseraError
from tessera.finetune.packing import Pack
from tessera.finetune.run import Run
from tessera.finetune.settings import Settings
from tessera.training.ranks import joined
from tests.finetune.small import make_run

ROOT = Path(__file__).parents[2]


def launch(size: int, folder: Path, runs: Mapping[str, Mapping[str, Any]], fault: str = "") -> list[tuple[int, str]]:
    """Do the runs, each in the folder of its name, on so many ranks; return each rank's exit code and its errors.

    `fault` "kill 4" ends rank 1 by SIGKILL before step 4 of the last run; "fail 4" is an error there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [str(folder), json.dumps(runs), fault]
    shared = os.environ | {
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.finetune.ranks", *given],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        return [(process.wait(240), process.communicate()[1]) for process in processes]
    finally:
        for process in processes:
            process.kill()


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


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
    except TesseraError as error:
        sys.exit(str(error))
