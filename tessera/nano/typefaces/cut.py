"""A font file cut to what pictures are set in: ASCII, pound and euro, with their kerning.

Outlines and widths stay as they are, so a cut face draws what the whole one drew. A face without a
pound or euro sign, as old ones are, gets one of its own f or C with bars, much as type designers
make it. fontTools is an extra: training needs it, using nano does not.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tessera.errors import CheckpointError, MissingExtraError
from tessera.nano.typefaces import CURRENCIES, PRINTABLE

if TYPE_CHECKING:
    from fontTools.pens.recordingPen import RecordingPen
    from fontTools.ttLib import TTFont

UNUSED_TABLES = ("DSIG", "EBDT", "EBLC", "EBSC", "FFTM", "LTSH", "PfEd", "SVG", "VDMX", "VORG", "hdmx", "vhea", "vmtx")
THINNEST_BAR, THICKEST_BAR = 0.05, 0.11  # of a made sign, in heights of its letter; else as thick as the hyphen
Box = tuple[float, float, float, float]  # left, bottom, right, top
CUTTER = 5  # counts up with every change of what is cut, so that older copies are made anew


@dataclass(frozen=True)
class Sign:
    """How a currency sign is made: a letter in the middle of some character's width, and bars across."""

    letter: str
    width_of: str
    bars: tuple[float, ...]  # their lower edges, in heights of the letter
    start: float  # where the bars begin and end, in widths
    end: float


SIGNS = {0xA3: Sign("f", "0", (0.0,), 0.06, 0.94), 0x20AC: Sign("C", "C", (0.36, 0.56), 0.0, 0.8)}


def cut(data: bytes, name: str) -> bytes:
    """The file's ASCII, pound and euro; raises CheckpointError where a printable character is missing."""
    font = _opened(data, name)
    _check(font, name, PRINTABLE)
    for code in CURRENCIES:
        if code not in font.getBestCmap():
            _add_currency(font, code)
    font = _subset(font)
    _check(font, name, PRINTABLE + CURRENCIES)
    out = io.BytesIO()
    font.save(out)
    return out.getvalue()


def require_fonttools() -> None:
    if find_spec("fontTools") is None:
        raise MissingExtraError(
            'cutting font files needs fontTools, which is not installed: pip install "tessera[nano]"'
        )


def _opened(data: bytes, name: str) -> TTFont:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        return TTFont(io.BytesIO(data), recalcTimestamp=False)
    except TTLibError as error:
        raise CheckpointError(f"{name} is not a font file that can be read; fetch its package anew") from error


def _check(font: TTFont, name: str, codes: tuple[int, ...]) -> None:
    """Every code has a glyph, and every glyph but the space's has an outline."""
    from fontTools.pens.boundsPen import BoundsPen

    cmap, glyphs = font.getBestCmap() or {}, font.getGlyphSet()
    for code in codes:
        empty = code not in cmap
        if not empty and code != ord(" "):
            pen = BoundsPen(glyphs)
            glyphs[cmap[code]].draw(pen)
            empty = pen.bounds is None
        if empty:
            raise CheckpointError(f"{name} does not draw {chr(code)!r}; leave it out of the manifest")


def _subset(font: TTFont) -> TTFont:
    from fontTools.subset import Options, Subsetter

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # It warns of every table that it does not know.
    options = Options()
    options.layout_features = ["kern"]
    options.name_IDs = [0, 1, 2, 4, 5, 6, 13, 14, 16, 17]
    options.notdef_outline = True
    options.legacy_kern = True
    options.hinting = True
    options.drop_tables = [*options.drop_tables, *UNUSED_TABLES]
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=PRINTABLE + CURRENCIES)
    subsetter.subset(font)
    return font


def _add_currency(font: TTFont, code: int) -> None:
    from fontTools.pens.areaPen import AreaPen
    from fontTools.pens.boundsPen import BoundsPen
    from fontTools.pens.recordingPen import DecomposingRecordingPen
    from fontTools.pens.transformPen import TransformPen

    sign, name = SIGNS[code], f"made{code:04X}"
    cmap, glyphs = font.getBestCmap(), font.getGlyphSet()
    letter, width = cmap[ord(sign.letter)], font["hmtx"][cmap[ord(sign.width_of)]][0]
    outline, bounds, area, hyphen = (
        DecomposingRecordingPen(glyphs),
        BoundsPen(glyphs),
        AreaPen(glyphs),
        BoundsPen(glyphs),
    )
    glyphs[cmap[ord("-")]].draw(hyphen)
    shift = round((width - font["hmtx"][letter][0]) / 2)
    for pen in (outline, bounds, area):
        glyphs[letter].draw(TransformPen(pen, (1, 0, 0, 1, shift, 0)))
    left, _, _, height = bounds.bounds
    start, end = sign.start * width, sign.end * width
    thick = max(THINNEST_BAR * height, min(hyphen.bounds[3] - hyphen.bounds[1], THICKEST_BAR * height))
    for bottom in sign.bars:
        box = (start, bottom * height, end, bottom * height + thick)
        _add_box(outline, box, clockwise=area.value < 0)  # The other way round it would cut the letter out.
    # FreeType moves a TrueType outline until it begins where the metrics say.
    metrics = (width, round(min(left, start)))
    if "glyf" in font:
        _store_truetype(font, name, outline)
    else:
        _store_postscript(font, name, letter, width, outline)
    font["hmtx"][name] = metrics
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap[code] = name


def _store_truetype(font: TTFont, name: str, outline: RecordingPen) -> None:
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    outline.replay(pen)
    font.setGlyphOrder([*font.getGlyphOrder(), name])
    font["glyf"][name] = pen.glyph()
    font["maxp"].numGlyphs += 1


def _store_postscript(font: TTFont, name: str, like: str, width: int, outline: RecordingPen) -> None:
    from fontTools.pens.t2CharStringPen import T2CharStringPen

    top = font["CFF "].cff.topDictIndex[0]
    strings = top.CharStrings
    model, selector = strings.getItemAndSelector(like)
    pen = T2CharStringPen(width - model.private.nominalWidthX, None)
    outline.replay(pen)
    strings.charStringsIndex.append(pen.getCharString(private=model.private, globalSubrs=top.GlobalSubrs))
    strings.charStrings[name] = len(strings.charStringsIndex) - 1
    if selector is not None:
        top.FDSelect.append(selector)
    top.charset.append(name)
    font.setGlyphOrder(top.charset)
    font["maxp"].numGlyphs = len(top.charset)


def _add_box(outline: RecordingPen, box: Box, clockwise: bool) -> None:
    left, bottom, right, top = box
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    if clockwise:
        corners.reverse()
    outline.moveTo(corners[0])
    for corner in corners[1:]:
        outline.lineTo(corner)
    outline.closePath()
