"""Images as documents: every format that `raster` decodes, in its children, and each image of a TIFF as a page."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image as PILImage

from tessera.containers import tiff_images, with_first_image
from tessera.decoding import Decoders
from tessera.documents.ink import is_blank
from tessera.documents.limits import PageLimits
from tessera.documents.page import Box, Page
from tessera.documents.rendering import KEPT, checked_side, turned, whole_or
from tessera.documents.sources import Source
from tessera.errors import DocumentError, ImageError
from tessera.raster import Pixels
from tessera.sources import ImageLimits

# What an error about an image says, and its code; all others mean that the file is damaged.
CODES = (
    ("takes longer to decode", "timeout"),
    ("the limit is", "too_large"),
    ("more memory", "too_large"),
    ("need a package", "unsupported"),
    ("cannot be read; save it", "unsupported"),
)
_DECODERS = Decoders()


@dataclass(frozen=True)
class ImageDocument:
    """An image file, and where in a TIFF its images are."""

    name: str
    digest: str
    source: Source
    limits: PageLimits
    places: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return max(len(self.places), 1)

    def page(self, number: int) -> Page:
        """Decode a page. Raises DocumentError."""
        return ImagePage(self, number)

    def decoded(self, number: int) -> Pixels:
        """Decode a page's pixels. Raises DocumentError."""
        with self.source.open() as file:
            data = file.read(self.limits.max_bytes)
        if len(self.places) > 1:
            data = with_first_image(data, self.places[number - 1])
        name = self.name if self.count == 1 else f"{self.name}, page {number},"
        try:
            return _DECODERS.decode(name, data, ImageLimits(max_pixels=self.limits.max_pixels))
        except ImageError as error:
            code = next((code for words, code in CODES if words in str(error)), "damaged")
            raise DocumentError(str(error), code=code) from error


def open_image(name: str, digest: str, source: Source, limits: PageLimits, *, is_tiff: bool) -> ImageDocument:
    """Find the images of a file."""
    places: tuple[int, ...] = ()
    if is_tiff:
        with source.open() as file:
            places = tuple(tiff_images(file.read(limits.max_bytes)))
    return ImageDocument(name, digest, source, limits, places)


class ImagePage(Page):
    """An image; it has no text layer."""

    rotation = 0
    words = ()

    def __init__(self, document: ImageDocument, number: int) -> None:
        self.document, self.digest = document.name, document.digest
        self.number, self.count = number, document.count
        self._file = document
        pixels = document.decoded(number)
        self.size = (float(pixels.shape[1]), float(pixels.shape[0]))
        self.pixels = max(pixels.shape[:2])
        box = whole_or(None)
        self.blank = is_blank(KEPT.get(self._key(1024, box), lambda: _scaled(pixels, 1024, box)))

    def image(self, side: int = 1024, crop: Box | None = None, rotation: int = 0) -> PILImage.Image:
        """Scale the image, or a part, down to `side`; stored pixels are not enlarged."""
        checked_side(side, rotation)
        box = whole_or(crop)
        image = KEPT.get(self._key(side, box), lambda: _scaled(self._file.decoded(self.number), side, box))
        return turned(image, rotation)

    def _key(self, side: int, box: Box) -> tuple[object, ...]:
        return self.digest, self.number, side, box.left, box.top, box.right, box.bottom


def _scaled(pixels: Pixels, side: int, box: Box) -> PILImage.Image:
    height, width = pixels.shape[:2]
    left, top = min(int(box.left * width), width - 1), min(int(box.top * height), height - 1)
    right, bottom = max(round(box.right * width), left + 1), max(round(box.bottom * height), top + 1)
    part = PILImage.fromarray(pixels[top:bottom, left:right])
    scale = side / max(part.size)
    if scale >= 1:
        return part
    size = max(round(part.width * scale), 1), max(round(part.height * scale), 1)
    return part.resize(size, PILImage.Resampling.LANCZOS, reducing_gap=3.0)
