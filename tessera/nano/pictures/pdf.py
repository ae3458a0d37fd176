"""The adapter for every renderer that prints PDF: a page's picture, and where each character lies on it.

A character's centre follows the canvas: across, the middle of its ink; up, a fixed part of the type
size above the baseline, so that a line's commas and capitals lie in one row. Renderers must turn
ligatures off, since a ligature is one box for several characters.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image

from tessera.errors import UsageError
from tessera.nano.pictures.canvas import CENTRE_ABOVE_BASELINE
from tessera.nano.pictures.page import Glyph, Written

PRINTABLE = frozenset(chr(code) for code in range(33, 127)) | frozenset("£€")
# Signs that print like one of ours; pdfium says 2 for a hyphen at a line's end.
LOOKALIKES = str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2012\u2013\u2014\u2212\u00ad\x02", "''\"\"--------")
APART = 1.1  # of the type size: centres further apart than this are of different words


def read_pdf(data: bytes, scale: float) -> tuple[Image.Image, list[Glyph]]:
    """Page 1 at `scale` pixels a point, and its visible characters in the order they were printed."""
    document = pypdfium2.PdfDocument(data)
    try:
        page = document[0]
        image = page.render(scale=scale).to_pil().convert("RGB")
        text = page.get_textpage()
        try:
            glyphs = list(_glyphs(text, page.get_height(), scale))
        finally:
            text.close()
            page.close()
    finally:
        document.close()
    width, height = image.size
    return image, [glyph for glyph in glyphs if 0 <= glyph.x < width and 0 <= glyph.y < height]


def _glyphs(text: pypdfium2.PdfTextPage, page_height: float, scale: float) -> Iterable[Glyph]:
    matrix = pdfium.FS_MATRIX()
    origin_x, origin_y = ctypes.c_double(), ctypes.c_double()
    for index in range(text.count_chars()):
        char = chr(pdfium.FPDFText_GetUnicode(text, index)).translate(LOOKALIKES)
        if char not in PRINTABLE or pdfium.FPDFText_IsGenerated(text, index) == 1:
            continue
        pdfium.FPDFText_GetCharOrigin(text, index, origin_x, origin_y)
        pdfium.FPDFText_GetMatrix(text, index, matrix)
        upwards = math.hypot(matrix.c, matrix.d)
        left, bottom, right, top = text.get_charbox(index)
        if not upwards or right <= left:
            continue
        size = pdfium.FPDFText_GetFontSize(text, index) * upwards
        up_x, up_y = matrix.c / upwards, matrix.d / upwards
        # From the middle of the box along the upright to the baseline, and from there to the centre.
        x, y = (left + right) / 2, (bottom + top) / 2
        rise = size * CENTRE_ABOVE_BASELINE - ((x - origin_x.value) * up_x + (y - origin_y.value) * up_y)
        yield Glyph(char, (x + rise * up_x) * scale, (page_height - y - rise * up_y) * scale, size * scale)


def locate(glyphs: Sequence[Glyph], text: str, after: int = 0) -> Written | None:
    """`text` as printed from glyph `after` on, None where it is not; blanks are not compared.

    A place where it stands alone comes before one where it is part of a longer text: "12" is not found in "120".
    """
    printed, sought = "".join(glyph.char for glyph in glyphs), "".join(text.split())
    if not sought:
        return None
    places = []
    place = printed.find(sought, after)
    while place >= 0:
        places.append(place)
        place = printed.find(sought, place + 1)
    if not places:
        return None
    return _written(text, min(places, key=lambda place: not _alone(glyphs, place, place + len(sought))))


def locate_all(glyphs: Sequence[Glyph], texts: Sequence[str]) -> list[Written]:
    """Texts that are all that the page prints, in this very order; blanks are not compared."""
    printed = "".join(glyph.char for glyph in glyphs)
    expected = "".join("".join(text.split()) for text in texts)
    if printed != expected:
        raise UsageError(
            f"the page prints {printed[:200]!r}, not {expected[:200]!r}; name its texts in the order they are printed."
        )
    found, place = [], 0
    for text in texts:
        found.append(_written(text, place))
        place += len("".join(text.split()))
    return found


def _written(text: str, place: int) -> Written:
    indices: list[int | None] = []
    for char in text:
        indices.append(None if char.isspace() else place)
        place += not char.isspace()
    return Written(text, tuple(indices))


def _alone(glyphs: Sequence[Glyph], start: int, end: int) -> bool:
    before = start == 0 or _apart(glyphs[start - 1], glyphs[start])
    return before and (end == len(glyphs) or _apart(glyphs[end - 1], glyphs[end]))


def _apart(one: Glyph, other: Glyph) -> bool:
    return math.hypot(other.x - one.x, other.y - one.y) > APART * max(one.size, other.size)
