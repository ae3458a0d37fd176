"""`tessera quantize`: write a model in fewer bits, and report the error of every layer."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tessera.cli.session import Status
from tessera.load import find_model
from tessera.quantize.plan import Options
from tessera.quantize.run import Step, quantize
from tessera.shelf import made_models, quantized_name
from tessera.summary import describe


def run_quantize(
    source: str, destination: Path | None, options: Options, calibrate: Path | None, device: str, quiet: bool
) -> None:
    start = time.perf_counter()

    status = Status(shows=sys.stderr.isatty() and not quiet)

    def watch(step: Step) -> None:
        status.erase()
        if not quiet:
            print(f"{_line(step)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    folder = find_model(source)
    name = quantized_name(source, options.bits)
    is_named = destination is None  # by a short name that -m accepts
    destination = made_models() / name if destination is None else destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        quantize(folder, destination, options, calibrate=calibrate, device=device, watch=watch, started=status)
    finally:
        status.erase()
    if not quiet:
        if calibrate is None and options.bits in ("3", "4"):
            print("rounded without samples; `--calibrate FOLDER` lowers the outputs' errors", file=sys.stderr)
        before, after = describe(folder).stored_bytes, describe(destination).stored_bytes
        print(f"{before / 1e9:.3g} GB became {after / 1e9:.3g} GB", file=sys.stderr)
        if is_named:
            print(f"use it with -m {name}", file=sys.stderr)
    print(destination)


def _line(step: Step) -> str:
    """Example: "  3 of 43  layers.1: int4, weights off by 7.21% (at most 8.13%, attention.wq)"."""
    head = f"{step.number:>3} of {step.total}  {step.unit}"
    records = {name.removeprefix(f"{step.unit}."): record for name, record in step.linears.items()}
    if not records:
        return f"{head}: as it is"
    schemes = ", ".join(sorted({record.scheme for record in records.values()}))
    weights = _errors("weights", {name: record.weight_error for name, record in records.items()})
    outputs = {name: record.output_error for name, record in records.items() if record.output_error is not None}
    return f"{head}: {schemes}, {weights}" + (f", {_errors('outputs', outputs)}" if outputs else "")


def _errors(what: str, errors: Mapping[str, float]) -> str:
    worst = max(errors, key=lambda name: errors[name])
    return f"{what} off by {sum(errors.values()) / len(errors):.2%} (at most {errors[worst]:.2%}, {worst})"
