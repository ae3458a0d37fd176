"""Our own renderer: a surface that remembers where each character lies, and what it is drawn with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from tessera.nano.pictures.fonts import Face
from tessera.nano.pictures.page import Glyph, Page, Question, Written

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
CENTRE_ABOVE_BASELINE = 0.3  # of the font size: the middle of lower-case letters, shared by one line
SMALLEST_TYPE, LARGEST_TYPE = 9.0, 40.0  # pixels, in the finished picture


@dataclass(frozen=True)
class Style:
    """Which typefaces and which layouts may be used: those of training, or those held out."""

    unseen_faces: bool = False
    unseen_layouts: bool = False


@dataclass
class Brush:
    """What every picture is drawn with: the dice, the room there is, and the faces that may be used."""

    random: Random
    faces: Sequence[Face]  # of which `face` draws one; families are alike likely
    style: Style = field(default_factory=Style)
    max_width: int = 512  # the most pixels that a drawing may take, before it is worn
    max_height: int = 512
    largest_type: float = LARGEST_TYPE

    def face(self) -> Face:
        return self.random.choice(self.faces)

    def size(self, smallest: float = SMALLEST_TYPE, largest: float = LARGEST_TYPE) -> int:
        """A type size in pixels, small ones as likely as large ones (log-uniform)."""
        largest = max(smallest, min(largest, self.largest_type))
        return round(math.exp(self.random.uniform(math.log(smallest), math.log(largest))))

    def colors(self) -> tuple[Color, Color]:
        """Paper and ink with enough contrast to read."""
        pick = self.random
        if pick.random() < 0.5:
            return WHITE, BLACK if pick.random() < 0.7 else (pick.randint(20, 90),) * 3
        light: Color = (pick.randint(215, 255), pick.randint(215, 255), pick.randint(205, 255))
        dark: Color = (pick.randint(0, 110), pick.randint(0, 90), pick.randint(0, 120))
        return (dark, light) if pick.random() < 0.2 else (light, dark)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


@lru_cache(maxsize=200_000)
def advance(font: ImageFont.FreeTypeFont, char: str) -> float:
    """How wide one character is set; measured once, since faces without hints are slow to measure."""
    return font.getlength(char)


class Canvas:
    """A picture in the making."""

    def __init__(self, width: float, height: float, background: Color = WHITE) -> None:
        self.background = background
        self.image = Image.new("RGB", (math.ceil(width), math.ceil(height)), background)
        self.pen = ImageDraw.Draw(self.image)
        self.glyphs: list[Glyph] = []

    def write(
        self,
        x: float,
        baseline: float,
        text: str,
        font: ImageFont.FreeTypeFont,
        fill: Color = BLACK,
        align: float = 0.0,
    ) -> Written:
        """Print one line; `align` 0 puts its left end at x, 0.5 its middle, 1 its right end."""
        length = font.getlength(text)
        left, line = round(x - align * length), round(baseline)
        self.pen.text((left, line), text, font=font, fill=fill, anchor="ls")
        indices: list[int | None] = []
        widths = [advance(font, char) for char in text]
        kerned = length / (sum(widths) or 1.0)  # kerning is spread over the line
        start = float(left)
        for char, width in zip(text, (width * kerned for width in widths), strict=True):
            if char == " ":
                indices.append(None)
            else:
                indices.append(len(self.glyphs))
                self.glyphs.append(Glyph(char, start + width / 2, line - font.size * CENTRE_ABOVE_BASELINE, font.size))
            start += width
        return Written(text, tuple(indices))

    def write_upwards(
        self, x: float, middle: float, text: str, font: ImageFont.FreeTypeFont, fill: Color = BLACK
    ) -> Written:
        """Print one line turned by 90 degrees, read from bottom to top, as an axis title is; x is its baseline."""
        length, height = font.getlength(text), font.size * 1.4
        strip = Canvas(length + 2, height, self.background)
        written = strip.write(1, font.size * 1.05, text, font, fill)
        left, top = round(x - font.size * 1.05), round(middle - length / 2)
        self.image.paste(strip.image.transpose(Image.Transpose.ROTATE_90), (left, top))
        first = len(self.glyphs)
        self.glyphs += [Glyph(g.char, left + g.y, top + strip.image.width - g.x, g.size) for g in strip.glyphs]
        return Written(text, tuple(None if i is None else i + first for i in written.glyphs))

    def page(self, questions: Sequence[Question]) -> Page:
        return Page((self.image,), tuple(self.glyphs), tuple(questions))
