"""What a page's pixels tell without a model: whether anything is printed on it, and how tall its type is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

MARGIN = 0.03  # of each side: scanners leave shadows and holes there
CONTRAST = 24  # of 255: less is paper's grain, or what shines through from the other side
WINDOW = 8  # pixels of the page at half size
# Pixels of ink in the densest window. Measured on A4 at 1024 pixels, with and without grain: a lot of dust 5, a lone
# grey "7" of 10 points 7, in black 9, two letters 16, a line 24.
MIN_INK = 7
STRIP = 96  # pixels across: a word, most of which have a tall letter; a line that leans by a degree moves by 2 pixels
MIN_RUN, MAX_RUN = 4, 60  # pixels: shorter is noise, longer is no line of type
MIN_RUNS = 12
RUN_PER_EM = 0.76  # of the type size, from highest to lowest ink: 0.70 to 0.88 for 80 % of five typefaces at five sizes
SMALL = 0.35  # of the runs are at most as tall as "common small type"
BORDER = 0.015  # of the page, kept around what is printed
Mask = NDArray[np.bool_]


def is_blank(page: PILImage.Image) -> bool:
    """Decide if next to nothing is printed: a share of ink would not do, as one short line has as much as dust."""
    ink = _ink(page.reduce(2) if min(page.size) > 2 * WINDOW else page)
    height, width = ink.shape
    top, left = round(height * MARGIN), round(width * MARGIN)
    ink = ink[top : height - top, left : width - left]
    window = min(WINDOW, *ink.shape)
    sums = np.pad(ink.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    within = sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    return bool(within.max(initial=0) < MIN_INK)


def printed_part(page: PILImage.Image) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of all ink with a border, as shares of the page; None without any."""
    rows, columns = (np.flatnonzero(_ink(page).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    width, height = page.size
    return (
        max(0.0, columns[0] / width - BORDER), max(0.0, rows[0] / height - BORDER),
        min(1.0, (columns[-1] + 1) / width + BORDER), min(1.0, (rows[-1] + 1) / height + BORDER),
    )  # fmt: skip


def type_height(page: PILImage.Image) -> float | None:
    """Estimate the size of the small type on an image of a page, in pixels an em; None if there are no lines of type.

    Each narrow strip of the page alternates between rows with ink and rows without: a run of rows with ink is a piece
    of one line.
    """
    ink = _ink(page)
    height, width = ink.shape
    strips = max(width // STRIP, 1)
    rows = ink[:, : width // strips * strips].reshape(height, strips, -1).any(2)
    edges = np.diff(np.pad(rows.astype(np.int8), ((1, 1), (0, 0))), axis=0).T
    starts, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)
    runs = ends[1] - starts[1]
    runs = runs[(runs >= MIN_RUN) & (runs <= MAX_RUN)]
    return None if len(runs) < MIN_RUNS else float(np.quantile(runs, SMALL)) / RUN_PER_EM


def _ink(page: PILImage.Image) -> Mask:
    """Mark what differs from the paper, which is the most common colour, in any channel."""
    pixels = np.asarray(page.convert("RGB"))
    paper = np.median(pixels[::4, ::4].reshape(-1, 3), 0).astype(np.int16)
    lowest, highest = (paper - CONTRAST).clip(0, 255), (paper + CONTRAST).clip(0, 255)
    return np.asarray(((pixels < lowest) | (pixels > highest)).any(2))
