"""Pictures in: whatever a user gives becomes upright RGB, then normalised pixels of whole tokens.

Decoding is wary: bytes are counted, the format is checked against a list, and the size is read from
the header before a single pixel is decoded. Preparing is exactly mistral-common's preprocessing
(the model's own reference), with its OpenCV resize done in torch. The EXIF rotation, which the
reference leaves out, is applied first: people mean the picture they see.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

from tessera.chat import Image
from tessera.errors import FetchError, ImageError
from tessera.model.config import VisionConfig
from tessera.sources import ImageLimits, read

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
LOW_DETAIL_SIDE = 512
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, as the reference has them
STD = (0.26862954, 0.26130258, 0.27577711)
CUBIC_A = -0.75  # OpenCV's choice for INTER_CUBIC; Pillow's is -0.5
DIGEST_VERSION = b"tessera-pixels-1"

# Our own limits and errors say what matters; Pillow's warnings before them would only be noise.
warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """What the model sees of one picture.

    `pixels_CHW` is float32 and normalised, `grid` its (rows, columns) in tokens, `digest` 32 bytes
    that differ whenever pixels, size or preprocessing differ; width and height are the original's.
    """

    pixels_CHW: Tensor
    grid: tuple[int, int]
    digest: bytes
    width: int
    height: int


def load(image: Image, limits: ImageLimits | None = None) -> PILImage.Image:
    """The picture as upright RGB on white; raises ImageError or FetchError with the way out."""
    return _decoded(*_opened(image, limits or ImageLimits()))


def load_all(images: Sequence[Image], limits: ImageLimits) -> Iterator[PILImage.Image]:
    """Every picture as `load` gives it. All are read and checked by their headers now; each is decoded in its turn."""
    places = [f"picture {number} of {len(images)}: " if len(images) > 1 else "" for number in range(1, len(images) + 1)]
    opened = []
    for place, image in zip(places, images, strict=True):
        try:
            name, picture = _opened(image, limits)
        except (ImageError, FetchError) as error:
            raise type(error)(f"{place}{error}") from error
        opened.append((f"{place}{name}", picture))
    return (_decoded(name, picture) for name, picture in opened)


def _opened(image: Image, limits: ImageLimits) -> tuple[str, PILImage.Image]:
    """A name for messages, and the picture with its header read and its size allowed."""
    if isinstance(image.source, PILImage.Image):
        name, picture = "the picture", image.source
    else:
        name, data = read(image.source, limits)
        picture = _open(name, data, limits)
    _check_size(name, picture, limits)
    return name, picture


def _decoded(name: str, picture: PILImage.Image) -> PILImage.Image:
    try:
        return _to_rgb(ImageOps.exif_transpose(picture))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types for damaged data
        raise ImageError(f"{name} is damaged or cut short after its header; send the whole file again.") from error


def grid_of(width: int, height: int, vision: VisionConfig, *, low_detail: bool = False) -> tuple[int, int]:
    """Rows and columns of tokens for a picture of this size.

    Example for Pixtral 12B: 1920 x 1080 is scaled by 1024/1920 to 1024 x 576, so (36, 64).
    """
    longest = min(vision.image_size, LOW_DETAIL_SIDE) if low_detail else vision.image_size
    scale = max(width, height) / longest
    if scale > 1:
        # An extreme shape would round its short side to nothing: one pixel is the least.
        width, height = max(round(width / scale), 1), max(round(height / scale), 1)
    return math.ceil(height / vision.token_size), math.ceil(width / vision.token_size)


def token_count(grid: tuple[int, int]) -> int:
    """Tokens of a picture in the prompt: a break ends each row, an end token the last."""
    rows, columns = grid
    return rows * (columns + 1)


def prepare(picture: PILImage.Image, vision: VisionConfig, *, low_detail: bool = False) -> PreparedImage:
    """Resize an RGB picture to whole tokens and normalise it."""
    rows, columns = grid_of(*picture.size, vision, low_detail=low_detail)
    pixels_HWC = torch.from_numpy(np.array(picture))
    resized_HWC = resize_cubic(pixels_HWC, rows * vision.token_size, columns * vision.token_size)
    pixels_CHW = ((resized_HWC / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1).contiguous()
    digest = hashlib.blake2b(digest_size=32)
    digest.update(DIGEST_VERSION)
    digest.update(struct.pack("<4Q", vision.patch_size, vision.spatial_merge_size, rows, columns))
    digest.update(pixels_CHW.numpy().data)
    return PreparedImage(pixels_CHW, (rows, columns), digest.digest(), *picture.size)


def resize_cubic(pixels_HWC: Tensor, height: int, width: int) -> Tensor:
    """OpenCV's INTER_CUBIC in float32: four taps an axis, no antialiasing, edges repeated.

    Only the rows that are sampled become float32, so a picture of 64 megapixels needs no
    gigabyte. Source: OpenCV's documentation of InterpolationFlags and cv::resize.
    """
    resized = pixels_HWC
    for axis, size in ((0, height), (1, width)):
        resized = _resize_axis(resized, axis, size)
    return resized.float()


def _resize_axis(pixels_HWC: Tensor, axis: int, size: int) -> Tensor:
    old = pixels_HWC.shape[axis]
    if old == size:
        return pixels_HWC
    # Pixel centres are aligned: output i lies at (i + 0.5) * old / size - 0.5 of the input.
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (old / size) - 0.5
    first = centres.floor()
    offsets = torch.arange(-1, 3)
    indices = (first.long()[:, None] + offsets).clamp_(0, old - 1)
    weights = _cubic((centres - first)[:, None] - offsets).float()
    shape = [1, 1, 1]
    shape[axis] = size
    return sum(  # type: ignore[return-value]
        pixels_HWC.index_select(axis, indices[:, tap]).float() * weights[:, tap].view(shape) for tap in range(4)
    )


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981) with parameter CUBIC_A."""
    x = distance.abs()
    near = (CUBIC_A + 2) * x**3 - (CUBIC_A + 3) * x**2 + 1
    far = CUBIC_A * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _open(name: str, data: bytes, limits: ImageLimits) -> PILImage.Image:
    """Read the header only; the pixels are decoded after the size is known to be allowed."""
    formats = list(FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        formats.append(_register_heif())
    try:
        return PILImage.open(io.BytesIO(data), formats=formats)
    except PILImage.DecompressionBombError as error:
        raise ImageError(
            f"{name} has more than {2 * (PILImage.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, and the limit is "
            f"{limits.max_pixels / 1e6:.0f}; scale it down."
        ) from error
    except Exception as error:  # a damaged header raises many types, none of them worth showing
        known = ", ".join(FORMATS)
        raise ImageError(
            f"{name} ({len(data):,} bytes) is not a picture in a known format; known are {known}."
        ) from error


def _register_heif() -> str:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(
            "HEIF pictures need an extra package: pip install 'tessera[heif]'; or convert the picture to JPEG."
        ) from None
    register_heif_opener()
    return "HEIF"


def _check_size(name: str, picture: PILImage.Image, limits: ImageLimits) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; a picture needs at least one.")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name} is {width} x {height}, {width * height / 1e6:.0f} megapixels, and the limit is "
            f"{limits.max_pixels / 1e6:.0f} (max_pixels); scale it down or raise the limit."
        )


def _to_rgb(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy() if picture.im is None else _loaded(picture)
    if picture.mode.startswith(("I", "F")):
        picture = _wide_to_grey(picture)
    if picture.mode == "CMYK":
        return picture.convert("RGB")
    upright = picture.convert("RGBA")
    white = PILImage.new("RGBA", upright.size, "WHITE")
    return PILImage.alpha_composite(white, upright).convert("RGB")


def _loaded(picture: PILImage.Image) -> PILImage.Image:
    picture.load()
    return picture


def _wide_to_grey(picture: PILImage.Image) -> PILImage.Image:
    """Scale 16-bit, 32-bit and float greys to 8 bits; Pillow's own conversion clips them to white."""
    values = np.asarray(picture, dtype=np.float32)
    white = 65535.0 if picture.mode.startswith("I") else 1.0
    white = max(white, float(values.max()))
    return PILImage.fromarray((values.clip(0, white) * (255.0 / white)).round().astype(np.uint8))
