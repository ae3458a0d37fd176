"""Pixels, grids and tokens of images against mistral-common's own preprocessing with OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from tessera.images import STD, grid_of, load, prepare, token_count
from tessera.messages import Image
from tests.test_images import PIXTRAL, SMALL_31

mistral_image = pytest.importorskip("mistral_common.tokens.tokenizers.image")
pytest.importorskip("cv2", reason="OpenCV is the oracle of pixels: pip install opencv-python-headless")

BOUND = 0.02 / 255  # of the pixel range; measured: below 2e-4 of 255, and up to 0.014 where a side is 1 or 2 pixels
CONFIGS = {
    "pixtral": (PIXTRAL, mistral_image.ImageConfig(16, 1024)),
    "small 3.1": (SMALL_31, mistral_image.ImageConfig(14, 1540, 2)),
}
SIZES = [(100, 37), (1023, 1025), (64, 64), (2000, 1500), (3001, 17), (333, 1777), (16, 16)]
# Columns go first of the first three. Of longer ones the reference rounds the short side to nothing, and fails.
EXTREME = [(1000, 1), (900, 2), (20_000, 40), (40, 20_000), (1, 1), (2, 1024), (1, 1000)]


def oracle(kind: str) -> mistral_image.ImageEncoder:
    return mistral_image.ImageEncoder(CONFIGS[kind][1], mistral_image.SpecialImageIDs(10, 12, 13))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", SIZES + EXTREME)
def test_pixels(kind: str, mode: str, size: tuple[int, int]) -> None:
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    image = PILImage.fromarray(noise[:, :, 0] if mode == "L" else noise, mode)
    theirs = oracle(kind)(mistral_image.ImageChunk(image=image))
    ours = prepare(load(Image(image)), CONFIGS[kind][0])
    difference = np.abs(ours.pixels_CHW.numpy() - theirs.image).max(axis=(1, 2)) * np.array(STD)
    assert difference.max() <= BOUND
    assert token_count(ours.grid) == len(theirs.tokens)


@pytest.mark.parametrize("kind", CONFIGS)
@given(width=st.integers(1, 20000), height=st.integers(1, 20000))
@settings(max_examples=300, deadline=None)
def test_grids(kind: str, width: int, height: int) -> None:
    class Sized:
        size = (width, height)

    columns, rows = oracle(kind)._image_to_num_tokens(Sized())
    assert grid_of(width, height, CONFIGS[kind][0]) == (rows, columns)
