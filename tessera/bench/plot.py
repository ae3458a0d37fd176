"""Plot of a bench: each side's share of the machine's limit in every row, with the ratio as text.

Rows differ in kind (seconds per image, tokens per second), so bars show what they share: the share of
the limit. A bar past 1 means less than one step per token, which look-up can reach.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from tessera.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tessera.bench.suite import Contest, Report

COLOURS = ("#1f5fa8", "#e08214", "#7b7b7b")
BAR = 0.38
NAME_WIDTH = 34  # characters of a row's name in one line


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches; raises MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a plot needs matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_plot(file: Path) -> None:
    """Check before measuring: raises UsageError for a file name without an image format."""
    if file.suffix.removeprefix(".") not in new_figure(1, 1).canvas.get_supported_filetypes():
        raise UsageError(f"--plot {file} ends in {file.suffix!r}, which is not an image format; name a .png file.")


def plot(report: Report, file: Path) -> None:
    """Draw into a PNG or the format in the name; raises MissingExtraError without matplotlib."""
    rows = [len(contest.results) for contest in report.contests]
    figure = new_figure(10, 1.6 + 0.75 * sum(rows))
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)
    for contest, (axes,) in zip(report.contests, panels, strict=True):
        _draw(contest, axes)
    figure.suptitle(fill(f"{report.machine}; {report.limits[0]}", 110), fontsize=9)
    figure.savefig(file, dpi=130)


def _draw(contest: Contest, axes: Axes) -> None:
    longest = 1.0
    for place, result in enumerate(contest.results):
        for number, side in enumerate(contest.sides):
            share = result.fraction(side)
            longest = max(longest, share)
            height = place + (number - (len(contest.sides) - 1) / 2) * BAR
            axes.barh(height, share, BAR * 0.92, color=COLOURS[number], label=side if place == 0 else None)
            label = f" {result.row.show(result.time(side))}"
            if number:
                label += f"   (Tessera {result.ratio(contest.sides[0], side)[0]:.2f}x)"
            axes.text(share, height, label, va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(contest.results)), [fill(result.row.name, NAME_WIDTH) for result in contest.results])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * longest)
    axes.set_xlabel("share of the machine's limit, measured in the same rounds")
    axes.set_title(fill(contest.title, 110), fontsize=9, loc="left")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
