"""Image preprocessing: any given image becomes upright RGB, then normalised pixels in whole tokens.

Decoding is `raster`'s. Preparing is exactly mistral-common's preprocessing (the model's own reference),
with its OpenCV resize done in NumPy, in bands, so that no intermediate result grows with an image's
longer side. The EXIF rotation, which the reference omits, is applied first: people mean the image
they see.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from tessera.errors import FetchError, ImageError
from tessera.messages import Image
from tessera.model.config import VisionConfig
from tessera.raster import Pixels, convert, decode
from tessera.sources import ImageLimits, read

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images CLIP was trained on, as the reference has them
STD = (0.26862954, 0.26130258, 0.27577711)
CUBIC_A = -0.75  # OpenCV's choice for INTER_CUBIC; Pillow's is -0.5
DIGEST_VERSION = b"tessera-pixels-1"
STRETCH_VALUES = 2**19  # numbers in one intermediate result: 2 MiB stay in a core's cache, which is twice as fast


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image as the model sees it.

    `pixels_CHW` is float32 and normalised, `grid` its (rows, columns) in tokens, `digest` 32 bytes
    that differ whenever pixels, size or preprocessing differ; width and height are the original's.
    """

    pixels_CHW: Tensor
    grid: tuple[int, int]
    digest: bytes
    width: int
    height: int


def load(image: Image, limits: ImageLimits | None = None) -> PILImage.Image:
    """Load an image as upright RGB on white; raises ImageError or FetchError with the way out."""
    return PILImage.fromarray(load_pixels(image, limits or ImageLimits()))


def load_pixels(image: Image, limits: ImageLimits) -> Pixels:
    """Load an image as an array of (height, width, 3)."""
    if isinstance(image.source, PILImage.Image):
        return convert("the image", image.source, limits)
    return decode(*read(image.source, limits), limits)


def load_all(images: Sequence[Image], limits: ImageLimits) -> Iterator[Pixels]:
    """Load images with `load_pixels`, one at a time; an error names the image."""
    for number, image in enumerate(images, 1):
        try:
            yield load_pixels(image, limits)
        except (ImageError, FetchError) as error:
            raise type(error)(f"{place_of(number, len(images))}{error}") from error


def place_of(number: int, count: int) -> str:
    """Return the beginning of an error about one of several images."""
    return f"image {number} of {count}: " if count > 1 else ""


def side_of(image: Image, limits: ImageLimits) -> int | None:
    """Return the pixels that an image's longer edge may have, by itself and by the limits; None: the model's."""
    return min((side for side in (image.side, limits.max_side) if side is not None), default=None)


def grid_of(width: int, height: int, vision: VisionConfig, *, max_side: int | None = None) -> tuple[int, int]:
    """Return the rows and columns of tokens for an image of this size, at most `max_side` pixels along its longer edge.

    Example for Pixtral 12B: 1920 x 1080 is scaled by 1024/1920 to 1024 x 576, so (36, 64).
    """
    longest = min(vision.image_size, max_side or vision.image_size)
    scale = max(width, height) / longest
    if scale > 1:
        # An extreme shape would round its short side to zero: keep at least one pixel.
        width, height = max(round(width / scale), 1), max(round(height / scale), 1)
    return math.ceil(height / vision.token_size), math.ceil(width / vision.token_size)


def token_count(grid: tuple[int, int]) -> int:
    """Return an image's tokens in the prompt: a break ends each row, an end token the last."""
    rows, columns = grid
    return rows * (columns + 1)


def prepare(image: PILImage.Image | Pixels, vision: VisionConfig, *, max_side: int | None = None) -> PreparedImage:
    """Resize an RGB image to whole tokens, at most `max_side` pixels along its longer edge, and normalise it."""
    pixels = convert("the image", image, ImageLimits()) if isinstance(image, PILImage.Image) else image
    height, width = pixels.shape[:2]
    rows, columns = grid_of(width, height, vision, max_side=max_side)
    values_HWC = resize_cubic(pixels, rows * vision.token_size, columns * vision.token_size)
    values_HWC /= np.float32(255)
    values_HWC -= np.array(MEAN, np.float32)
    values_HWC /= np.array(STD, np.float32)
    pixels_CHW = torch.from_numpy(np.ascontiguousarray(values_HWC.transpose(2, 0, 1)))
    digest = hashlib.blake2b(digest_size=32)
    digest.update(DIGEST_VERSION)
    digest.update(struct.pack("<4Q", vision.patch_size, vision.spatial_merge_size, rows, columns))
    digest.update(pixels_CHW.numpy().data)
    return PreparedImage(pixels_CHW, (rows, columns), digest.digest(), width, height)


def resize_cubic(pixels_HWC: Pixels, height: int, width: int) -> Floats:
    """OpenCV's INTER_CUBIC in float32: four taps an axis, no antialiasing, edges repeated.

    The result is computed in bands of rows, with some 10 MB of extra memory for any image:
    first the source rows they need are weighed, then the columns. Where that would make more values than
    the other order, as it does of a long image of few rows, it goes by columns. NumPy computes it in the
    caller's thread alone: torch's threads are the engine's, and would be waited for. Source: OpenCV's
    documentation of InterpolationFlags and cv::resize.
    """
    old, new, channels = pixels_HWC.shape[:2], (height, width), pixels_HWC.shape[2]
    first, second = (1, 0) if height * old[1] > 2 * old[0] * width else (0, 1)
    taps = _taps(old[first], new[first]), _taps(old[second], new[second])
    resized_HWC = np.empty((height, width, channels), np.float32)
    length = max(1, STRETCH_VALUES // (channels * max(old[second], new[second])))
    for start in range(0, new[first], length):
        wanted = slice(start, min(start + length, new[first]))
        stretch = _weigh(_weigh(pixels_HWC, first, taps[0], wanted), second, taps[1])
        resized_HWC[wanted if first == 0 else (slice(None), wanted)] = stretch
    return resized_HWC


def _taps(old: int, size: int) -> tuple[Indices, Floats] | None:
    """Return the four source pixels and weights for each pixel of a resized axis; None: the axis is unchanged."""
    if old == size:
        return None
    # Pixel centres are aligned: output i lies at (i + 0.5) * old / size - 0.5 of the input.
    centres = (np.arange(size, dtype=np.float64) + 0.5) * (old / size) - 0.5
    first = np.floor(centres)
    offsets = np.arange(-1, 3)
    indices = (first.astype(np.int64)[:, None] + offsets).clip(0, old - 1)
    return indices, _cubic((centres - first)[:, None] - offsets).astype(np.float32)


def _weigh(
    values_HWC: Pixels | Floats, axis: int, taps: tuple[Indices, Floats] | None, wanted: slice = slice(None)
) -> Pixels | Floats:
    """Compute a band along one axis."""
    if taps is None:
        return values_HWC[wanted] if axis == 0 else values_HWC[:, wanted]
    indices, weights = taps[0][wanted], taps[1][wanted]
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total: Floats | None = None
    for tap in range(4):
        part = values_HWC.take(indices[:, tap], axis).astype(np.float32, copy=False)
        part *= weights[:, tap].reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    return values_HWC if total is None else total


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (1981) with parameter CUBIC_A."""
    x = np.abs(distance)
    near = (CUBIC_A + 2) * x**3 - (CUBIC_A + 3) * x**2 + 1
    far = CUBIC_A * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
