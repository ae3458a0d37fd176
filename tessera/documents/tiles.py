"""Views of a page: as large as its type needs and the model takes, and again in parts where that is too small."""

from __future__ import annotations

from tessera.documents.ink import printed_part, type_height
from tessera.documents.page import Box, Page
from tessera.errors import UsageError

LEGIBLE = 12.0  # pixels an em; below that, models misread A4 at 1024 pixels
LINE_PER_EM = 1.15  # a word's box is as tall as its font's line: 1.12 (Arial) to 1.17 (Helvetica, DejaVu)
SMALL = 0.1  # of the characters are at most as tall as "common small type"
MAX_TILES = 64
NEARLY_ALL = 0.95
LEAST_SIDE = 256  # pixels of a page whose type is huge; a smaller part of a page may have fewer


def legible_side(height: float | None, most: int, em: float, share: float = 1.0) -> int:
    """Return the side at which small type has `em` pixels: at most `most`, where it has `height` on a whole page.

    `share` is the part of the page's longer edge that is shown. Without a known height the side is `most`.
    """
    if height is None:
        return most
    return min(most, max(round(LEAST_SIDE * share), round(most * share * em / height)))


def printed_box(page: Page, side: int) -> Box | None:
    """Return the part of a page that has print on it; None if that is nearly all of it. Raises DocumentError."""
    found = printed_part(page.image(side))
    if found is None:
        return None
    box = Box(page.number, *found)
    return box if share_of(page, box) < NEARLY_ALL or (box.right - box.left) < NEARLY_ALL else None


def share_of(page: Page, part: Box | None) -> float:
    """Return the longer edge of a part as a share of the page's longer edge."""
    if part is None:
        return 1.0
    width, height = page.size
    return max((part.right - part.left) * width, (part.bottom - part.top) * height) / max(width, height)


def needs_tiles(page: Page, side: int = 1024) -> bool:
    """Decide if the page's small type is illegible when its longer edge has `side` pixels, and parts would show more.

    Measured in the text layer, or on the rendered page without one. Raises DocumentError.
    """
    if page.blank or (page.pixels is not None and page.pixels <= side):
        return False
    height = small_type(page, side)
    return height is not None and height < LEGIBLE


def small_type(page: Page, side: int, rotation: int = 0) -> float | None:
    """Return the em of the page's small type, in pixels, if its longer edge had `side` of them; None if unknown."""
    if page.words:
        return _height_of_words(page, side)
    image = page.image(side, rotation=rotation)
    height = type_height(image)
    return None if height is None else height * side / max(image.size)


def _height_of_words(page: Page, side: int) -> float | None:
    """Return the em, in pixels, that a tenth of the characters do not exceed."""
    pixels = page.size[1] * side / max(page.size)
    heights = sorted(((w.box.bottom - w.box.top) * pixels, len(w.text)) for w in page.words)
    left = SMALL * sum(length for _, length in heights)
    for height, length in heights:
        left -= length
        if left <= 0:
            return height / LINE_PER_EM
    return None


def tile_boxes(page: Page, rows: int = 2, columns: int = 2, overlap: float = 0.1) -> tuple[Box, ...]:
    """Cut a page into equal parts, row by row, which share `overlap` of their size with their neighbours."""
    if not (rows >= 1 and columns >= 1 and rows * columns <= MAX_TILES and 0 <= overlap < 1):
        raise UsageError(
            f"{rows} x {columns} tiles with an overlap of {overlap:g} are asked for; there may be 1 to {MAX_TILES} of "
            "them, and the overlap is at least 0 and below 1."
        )
    return tuple(
        Box(page.number, left, top, right, bottom)
        for top, bottom in _cuts(rows, overlap)
        for left, right in _cuts(columns, overlap)
    )


def _cuts(count: int, overlap: float) -> list[tuple[float, float]]:
    length = 1 / (count - (count - 1) * overlap)
    step = length * (1 - overlap)
    return [(index * step, 1.0 if index == count - 1 else index * step + length) for index in range(count)]
