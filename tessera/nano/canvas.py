"""A drawing surface that remembers where each character lies, and the labelled sample it ends in.

Knows nothing of charts or receipts. Positions follow the picture through skewing and cropping, so
they are exact in the final pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from string import Formatter

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Color = tuple[int, int, int]
CENTRE_ABOVE_BASELINE = 0.3  # of the font size: the middle of lower-case letters, shared by one line


@dataclass(frozen=True)
class Glyph:
    """A printed character and its centre in pixels of the picture."""

    char: str
    x: float
    y: float


@dataclass(frozen=True)
class Written:
    """A piece of text on the canvas: per character the index of its glyph, None for a space."""

    text: str
    glyphs: tuple[int | None, ...]


def unprinted(text: str) -> Written:
    """Text of an answer that stands nowhere in the picture, such as JSON punctuation."""
    return Written(text, (None,) * len(text))


def filled(template: str, **pieces: Written) -> Written:
    """A question that quotes the picture: "Value of {label}?" with the label's own glyphs."""
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(unprinted(literal))
        if name is not None:
            parts.append(pieces[name])
    return joined(parts)


def joined(parts: Sequence[Written]) -> Written:
    return Written("".join(p.text for p in parts), tuple(glyph for p in parts for glyph in p.glyphs))


@dataclass(frozen=True)
class Sample:
    """A picture with one question, its answer, and where each character of the answer is printed."""

    image: Image.Image
    question: str
    answer: str
    skill: str
    glyphs: tuple[Glyph, ...]  # every printed character of the picture, without spaces
    question_glyphs: tuple[int | None, ...]  # per character of `question`
    answer_glyphs: tuple[int | None, ...]  # per character of `answer`
    clue_glyph: int | None = None  # where to look before answering: at the value that is highest, for its label


class Canvas:
    def __init__(self, width: float, height: float, background: Color) -> None:
        self.background = background
        self.image = Image.new("RGB", (math.ceil(width), math.ceil(height)), background)
        self.pen = ImageDraw.Draw(self.image)
        self.glyphs: list[Glyph] = []

    def write(
        self, x: float, baseline: float, text: str, font: ImageFont.FreeTypeFont, fill: Color, align: float = 0.0
    ) -> Written:
        """Print one line; `align` 0 puts its left end at x, 0.5 its middle, 1 its right end."""
        left = round(x - align * font.getlength(text))
        self.pen.text((left, round(baseline)), text, font=font, fill=fill, anchor="ls")
        indices: list[int | None] = []
        start, y = 0.0, round(baseline) - font.size * CENTRE_ABOVE_BASELINE
        for count, char in enumerate(text, 1):
            end = font.getlength(text[:count])
            if char == " ":
                indices.append(None)
            else:
                indices.append(len(self.glyphs))
                self.glyphs.append(Glyph(char, left + (start + end) / 2, y))
            start = end
        return Written(text, tuple(indices))

    def skew(self, degrees: float) -> None:
        """Turn the picture about its centre; it grows so that nothing is cut off."""
        width, height = self.image.size
        self.image = self.image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=self.background)
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        new_width, new_height = self.image.size
        self.glyphs = [
            replace(
                glyph,
                x=cosine * (glyph.x - width / 2) + sine * (glyph.y - height / 2) + new_width / 2,
                y=-sine * (glyph.x - width / 2) + cosine * (glyph.y - height / 2) + new_height / 2,
            )
            for glyph in self.glyphs
        ]

    def wear(self, random: Random, amount: float) -> None:
        """Now and then a slight blur, JPEG damage or sensor noise; `amount` from 0 to 1."""
        if random.random() < 0.15 * amount:
            self.image = self.image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.7)))
        if random.random() < 0.2 * amount:
            file = io.BytesIO()
            self.image.save(file, "JPEG", quality=random.randint(45, 92))
            self.image = Image.open(file).convert("RGB")
        if random.random() < 0.3 * amount:
            pixels = np.asarray(self.image, dtype=np.float32)
            noise = np.random.default_rng(random.getrandbits(32)).standard_normal(pixels.shape, dtype=np.float32)
            noisy = (pixels + noise * random.uniform(2, 12)).clip(0, 255)
            self.image = Image.fromarray(noisy.astype(np.uint8))

    def sample(self, question: str | Written, answer: Written, skill: str, clue: Written | None = None) -> Sample:
        asked = unprinted(question) if isinstance(question, str) else question
        glyphs = tuple(self.glyphs)
        clue_glyph = clue.glyphs[0] if clue else None
        return Sample(self.image, asked.text, answer.text, skill, glyphs, asked.glyphs, answer.glyphs, clue_glyph)
