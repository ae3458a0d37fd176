"""Makes a clean drawing look used: resized, turned a little, unevenly lit, compressed, noisy.

Everything is done to the finished picture, for every renderer alike; the characters' places follow.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from random import Random

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from tessera.nano.pictures.page import MARK, Glyph, Page

SMALLEST_FINAL_TYPE = 8.5  # pixels; smaller is not promised, so it is not taught
SMALLEST_FINAL_THING = 20.0
LARGEST_PICTURE = 1024
RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


def wear(page: Page, random: Random, share: float) -> Page:
    """The page as it might reach a reader; `share` of pages are more than resized."""
    glyphs = list(page.glyphs)
    pictures = []
    for number, picture in enumerate(page.pictures):
        own = [index for index, glyph in enumerate(glyphs) if glyph.picture == number]
        picture, moved = _resize(picture, [glyphs[index] for index in own], random)
        if random.random() < share:
            if random.random() < 0.35:
                picture, moved = _slant(picture, moved, random)
            picture = _spoil(picture, random, keeps_colours=_asks_colours(page))
        pictures.append(picture)
        for index, glyph in zip(own, moved, strict=True):
            glyphs[index] = glyph
    return Page(tuple(pictures), tuple(glyphs), page.questions)


def _resize(picture: Image.Image, glyphs: list[Glyph], random: Random) -> tuple[Image.Image, list[Glyph]]:
    """Another size, and a little wider or narrower, as long as the type can be read."""
    if random.random() < 0.4 and max(picture.size) <= LARGEST_PICTURE:
        return picture, glyphs
    floor = max((min(1.0, _smallest(glyph) / glyph.size) for glyph in glyphs), default=1.0)
    scale = math.exp(random.uniform(math.log(0.6), math.log(1.5)))
    stretch = math.exp(random.uniform(-0.2, 0.2)) if random.random() < 0.4 else 1.0
    scale = min(max(scale, floor), LARGEST_PICTURE / max(picture.size))
    width, height = (max(16, round(side * s)) for side, s in zip(picture.size, (scale * stretch, scale), strict=True))
    width = min(width, LARGEST_PICTURE)
    across, down = width / picture.width, height / picture.height
    moved = [replace(g, x=g.x * across, y=g.y * down, size=g.size * down) for g in glyphs]
    return picture.resize((width, height), random.choice(RESAMPLING)), moved


def _asks_colours(page: Page) -> bool:
    """Whether an answer may hang on a colour, which must then stay what it is called."""
    asked = any("colo" in question.question.text.lower() for question in page.questions)
    return asked or any(glyph.char == MARK for glyph in page.glyphs)


def _smallest(glyph: Glyph) -> float:
    """To how many pixels a character, or a thing, may shrink."""
    return SMALLEST_FINAL_THING if glyph.char == MARK else SMALLEST_FINAL_TYPE


def _slant(picture: Image.Image, glyphs: list[Glyph], random: Random) -> tuple[Image.Image, list[Glyph]]:
    """A turn by up to 3 degrees and a shear, about the middle; the corners take the border's colour."""
    turn = math.radians(random.uniform(-3, 3))
    shear = random.uniform(-0.12, 0.12) if random.random() < 0.4 else 0.0
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ [[1, shear], [0, 1]]
    width, height = picture.size
    corners = matrix @ np.array([[-width, width, -width, width], [-height, -height, height, height]]) / 2
    new_width, new_height = (min(math.ceil(side), LARGEST_PICTURE) for side in 2 * np.abs(corners).max(axis=1))
    back = np.linalg.inv(matrix)
    shift = np.array([width, height]) / 2 - back @ (np.array([new_width, new_height]) / 2)
    data = (*back[0], shift[0], *back[1], shift[1])
    border = picture.getpixel((0, 0))
    turned = picture.transform(
        (new_width, new_height), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC, fillcolor=border
    )
    places = matrix @ np.array([[g.x - width / 2 for g in glyphs], [g.y - height / 2 for g in glyphs]])
    moved = [
        replace(g, x=float(x) + new_width / 2, y=float(y) + new_height / 2)
        for g, x, y in zip(glyphs, *places, strict=True)
    ]
    return turned, moved


def _spoil(picture: Image.Image, random: Random, *, keeps_colours: bool) -> Image.Image:
    """Light, paper, blur, noise and compression, each now and then."""
    picture = picture.convert("RGB")
    if not keeps_colours:
        picture = _recoloured(picture, random)
    if random.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.9)))
    if random.random() < 0.3:
        picture = _grained(picture, random)
    if random.random() < 0.3:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=random.randint(30, 95))
        picture = Image.open(file).convert("RGB")
    return picture


def _black_and_white(picture: Image.Image) -> Image.Image:
    """One bit a pixel, by the brightness around it, as scanners do."""
    grey = picture.convert("L")
    around = np.asarray(grey.filter(ImageFilter.BoxBlur(12)), dtype=np.int16)
    return Image.fromarray(np.where(np.asarray(grey, dtype=np.int16) > around - 12, 255, 0).astype(np.uint8)).convert(
        "RGB"
    )


def _recoloured(picture: Image.Image, random: Random) -> Image.Image:
    """Inverted, grey, lit unevenly, or of one bit a pixel."""
    if random.random() < 0.08:
        picture = ImageOps.invert(picture)
    if random.random() < 0.1:
        picture = picture.convert("L").convert("RGB")
    if random.random() < 0.5:
        picture = _lit(picture, random)
    if random.random() < 0.03:
        picture = _black_and_white(picture)
    return picture


def _lit(picture: Image.Image, random: Random) -> Image.Image:
    """Less contrast, a tint, a shadow across the page."""
    pixels = np.asarray(picture, dtype=np.float32)
    if random.random() < 0.6:
        contrast = random.uniform(0.35, 1.0)
        pixels = pixels * contrast + random.uniform(0, 255 * (1 - contrast))
    if random.random() < 0.3:
        pixels = pixels * np.array([random.uniform(0.8, 1.0) for _ in range(3)], dtype=np.float32)
    if random.random() < 0.3:
        height, width = pixels.shape[:2]
        across = np.linspace(0, random.uniform(-0.3, 0.3), width, dtype=np.float32)
        down = np.linspace(0, random.uniform(-0.3, 0.3), height, dtype=np.float32)
        pixels = pixels * (1 - np.abs(across[None] + down[:, None]))[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _grained(picture: Image.Image, random: Random) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    noise = np.random.default_rng(random.getrandbits(32)).standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((pixels + noise * random.uniform(2, 12)).clip(0, 255).astype(np.uint8))
