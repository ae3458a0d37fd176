"""`tessera quantize`: write a model in fewer bits, and say for every layer what that changed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tessera.load import describe, resolve
from tessera.quantize import Options, Step, quantize


def run_quantize(source: str, destination: Path, options: Options, quiet: bool) -> None:
    start = time.perf_counter()

    def watch(step: Step) -> None:
        if not quiet:
            print(f"{_line(step)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    folder = resolve(source)
    quantize(folder, destination, options, watch=watch)
    if not quiet:
        before, after = describe(folder).stored_bytes, describe(destination).stored_bytes
        print(f"{before / 1e9:.2f} GB became {after / 1e9:.2f} GB", file=sys.stderr)
    print(destination)


def _line(step: Step) -> str:
    """Example: "3 of 43  layers.1: int4, weights off by 7.2 % (attention.wq 8.1 %)"."""
    head = f"{step.number:>3} of {step.total}  {step.unit}"
    if not step.linears:
        return f"{head}: as it is"
    schemes = ", ".join(sorted({record.scheme for record in step.linears.values()}))
    errors = {name: record.weight_error for name, record in step.linears.items()}
    worst = max(errors, key=lambda name: errors[name])
    mean = sum(errors.values()) / len(errors)
    of = worst.removeprefix(f"{step.unit}.")
    return f"{head}: {schemes}, weights off by {mean:.2%} (at most {errors[worst]:.2%}, {of})"
