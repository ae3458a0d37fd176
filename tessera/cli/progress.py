"""A run's progress: a bar on a terminal, plain lines elsewhere, or JSON events on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tessera.documents.progress import Progress, Snapshot, duration, events_to, lines_to, speed_text
from tessera.errors import counted


@contextmanager
def showing(*, as_json: bool, quiet: bool) -> Iterator[Progress]:
    """Yield where a run's snapshots go."""
    if as_json:
        yield events_to(sys.stdout)
    elif quiet:
        yield lambda snapshot: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield lines_to(sys.stderr)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(snapshot: Snapshot) -> None:
            counts = snapshot.counts
            bar.update(
                task, total=counts.total, completed=counts.done + counts.failed, description=beside_bar(snapshot)
            )

        yield show


def beside_bar(snapshot: Snapshot) -> str:
    """Example: "3 failed  4.1 a second  46 s left  1,204,000 tokens in, 33,120 out"."""
    counts, usage = snapshot.counts, snapshot.usage
    parts = [f"[red]{counts.failed:,} failed[/red]"] if counts.failed else []
    if counts.review:
        parts.append(f"[yellow]{counts.review:,} in review[/yellow]")
    if snapshot.items_per_s:
        parts.append(speed_text(snapshot.items_per_s))
    if counts.left and snapshot.seconds_left is not None:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    parts.append(f"[dim]{counted(usage.prompt_tokens, 'token')} in, {usage.completion_tokens:,} out[/dim]")
    return "  ".join(parts)
