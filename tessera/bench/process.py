"""One side of a comparison in its own process: each line of JSON is answered by another.

While one side is measured, the others wait for input and run nothing. All have the
same number of threads. Nothing here depends on what is measured or what the programs do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from tessera.errors import MeasurementError


class Side:
    """A running program that answers; a context manager that ends it."""

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send the program a request and return its answer; raises MeasurementError if it exits instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            raise MeasurementError(
                f"the program that measures {self.name} ended at {what!r} with the exit code {self._end()}: "
                f"{line.strip() or self._last_words()}"
            ) from error
        return answer

    def _end(self) -> int:
        """Close its input, which ends it, or kill it; return the exit code."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it exited before reading everything
            self._process.stdin.close()
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return next(reversed([line.strip() for line in self._errors if line.strip()]), "it said nothing")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
