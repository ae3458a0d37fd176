"""`tessera bench`: measurements on standard output, what is going on meanwhile on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.bench.random_weights import Format, widths, with_layers, write_random
from tessera.bench.suite import Peer, Plan, run


def run_bench(
    options: Mapping[str, Any], peers: Sequence[Peer], json_file: Path | None, plot_file: Path | None, *, quiet: bool
) -> None:
    """Measure by a Plan's fields, of which None leaves the default."""
    plan = Plan(peers=tuple(peers), **{name: value for name, value in options.items() if value is not None})

    def note(what: str) -> None:
        if not quiet:
            print(what, file=sys.stderr, flush=True)

    report = run(plan, note)
    print(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        from tessera.bench.plot import plot

        plot(report, plot_file)


def run_make_random(
    folder: Path, name: str, layers: int | None, vision_layers: int | None, form: Format, bits: int
) -> None:
    config, tokenizer = widths(name)
    write_random(folder, with_layers(config, layers, vision_layers), tokenizer, form, bits)
