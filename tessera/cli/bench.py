"""`tessera bench`: measurements on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.bench.plot import check_plot, plot
from tessera.bench.random_weights import Format, widths, with_layers, write_random
from tessera.bench.suite import Peer, Plan, run
from tessera.cli.parser import check_target
from tessera.errors import UsageError

# The fields of a Plan that choose the random weights.
OF_RANDOM_WEIGHTS = ("layers", "vision_layers", "bits", "widths", "folder")


def run_bench(
    options: Mapping[str, Any], peers: Sequence[Peer], json_file: Path | None, plot_file: Path | None, *, quiet: bool
) -> None:
    """Measure by a Plan's fields; None leaves the default."""
    _check(options, json_file, plot_file)
    plan = Plan(peers=tuple(peers), **{name: value for name, value in options.items() if value is not None})

    def note(what: str) -> None:
        if not quiet:
            print(what, file=sys.stderr, flush=True)

    report = run(plan, note)
    print(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(report, plot_file)


def _check(options: Mapping[str, Any], json_file: Path | None, plot_file: Path | None) -> None:
    """Refuse options that would be ignored, or would fail only after measuring."""
    model, random = options["model"], [name for name in OF_RANDOM_WEIGHTS if options[name] is not None]
    if model is not None and random:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in random)
        raise UsageError(
            f"{names} and --model {model} exclude each other: only random models have a choice of these; leave one out."
        )
    if model is None and options["mmproj"] is not None:
        raise UsageError(
            f"--mmproj {options['mmproj']} is the vision part of a model, and none is named; give it with --model."
        )
    for option, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None:
            check_target(option, file)
    if plot_file is not None:
        check_plot(plot_file)


def run_make_random(
    folder: Path, name: str, layers: int | None, vision_layers: int | None, form: Format, bits: int
) -> None:
    config, tokenizer = widths(name)
    write_random(folder, with_layers(config, layers, vision_layers), tokenizer, form, bits)
