"""Image decoding: encoded bytes or a PIL image to upright RGB on white, in bounded memory.

Format and size are checked before a pixel is decoded; then the
image is converted in tiles, so that no second copy is ever made: memory holds Pillow's image (at
most 4 bytes a pixel) and 3 bytes a pixel of the result. Imports no torch and no model, so that a
decoding process starts quickly.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from tessera.containers import Stored, exif_orientation, read_container
from tessera.errors import ImageError
from tessera.sources import ImageLimits

Pixels = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
TILE_PIXELS = 2**20  # some 30 MB of intermediate results for any shape
SAME_COLORS = 2  # of 255: a profile that moves no colour further counts as sRGB
# Modes that Pillow converts directly to RGB; all others go through RGBA for their transparency.
OPAQUE = ("RGB", "L", "1", "CMYK", "YCbCr", "LAB", "HSV", "RGBX")
OTHERS = (
    (b"%PDF", "a PDF; convert its pages to images first: pdftoppm -png FILE.pdf page"),
    (b"<svg", "an SVG drawing; export it as a PNG first"),
    (b"<?xml", "XML, perhaps an SVG drawing; export it as a PNG first"),
)
# The first bytes of the known formats.
BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{8}",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb"....ftypavi[fs]",
    "HEIF": rb"....ftyp(?:he[iv]|m[is]f)",
}

# Our own limits and errors suffice; Pillow's warnings would only be noise.
warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def allocate(height: int, width: int) -> Pixels:
    return np.empty((height, width, 3), np.uint8)


def decode(name: str, data: bytes, limits: ImageLimits, allocated: Callable[[int, int], Pixels] = allocate) -> Pixels:
    """Decode an image to pixels (H, W, 3), in memory from `allocated`, called once the size is known and allowed."""
    stored = read_container(name, data)
    if stored.size is not None:
        _check_size(name, stored.size, limits)
    image = _open(name, stored.data, limits)
    _check_size(name, image.size, limits)
    return _guarded(name, lambda: _pixels(image, stored, allocated))


def convert(name: str, image: PILImage.Image, limits: ImageLimits) -> Pixels:
    """Convert an image that Pillow opened or made, like `decode`."""
    _check_size(name, image.size, limits)
    return _guarded(name, lambda: _pixels(image, None, allocate))


def _guarded(name: str, work: Callable[[], Pixels]) -> Pixels:
    try:
        return work()
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types for damaged data
        if "memory" in str(error):  # some have their own type for that
            raise MemoryError from error
        raise ImageError(f"{name} is damaged or cut short after its header; send the whole file again.") from error


def _open(name: str, data: bytes, limits: ImageLimits) -> PILImage.Image:
    """Read only the header; pixels are decoded after the size is checked."""
    formats = list(FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        formats.append(_register_heif())
    try:
        return PILImage.open(io.BytesIO(data), formats=formats)
    except MemoryError:
        raise
    except PILImage.DecompressionBombError as error:
        raise ImageError(
            f"{name} has more than {2 * (PILImage.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, and the limit is "
            f"{limits.max_pixels / 1e6:.0f}; scale it down."
        ) from error
    except Exception as error:  # a damaged header raises many types, none worth showing
        raise ImageError(_unknown(name, data)) from error


def _unknown(name: str, data: bytes) -> str:
    start = data[:100].lstrip(b"\xef\xbb\xbf \r\n\t")
    for signature, what in OTHERS:
        if start.startswith(signature):
            return f"{name} is {what}."
    for kind, beginning in BEGINNINGS.items():
        if re.match(beginning, data, re.DOTALL):
            return (
                f"{name} ({len(data):,} bytes) begins as {kind} but is damaged, cut short, or of a kind of {kind} that "
                "cannot be read; send the whole file again, or save it anew as PNG."
            )
    known = ", ".join((*FORMATS, "HEIF"))
    return f"{name} ({len(data):,} bytes) is not an image in a known format; known are {known}."


def _register_heif() -> str:
    try:
        import pi_heif
    except ImportError:
        raise ImageError(
            "HEIF images need a package that is missing here: pip install pi-heif; or convert the image to JPEG."
        ) from None
    pi_heif.register_heif_opener(thumbnails=False)
    return "HEIF"


def _check_size(name: str, size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; an image needs at least one.")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name} is {width} x {height}, {width * height / 1e6:.0f} megapixels, and the limit is "
            f"{limits.max_pixels / 1e6:.0f} ({limits.name_of('max_pixels')}); scale it down or raise the limit."
        )


def _pixels(image: PILImage.Image, stored: Stored | None, allocated: Callable[[int, int], Pixels]) -> Pixels:
    low = _low_bytes(image, stored)
    _take_both_bytes(image, stored)
    if stored is None:
        image.load()  # also rotates a TIFF that Pillow opened
    orientation = stored.orientation if stored is not None else None
    if orientation is None:
        orientation = _orientation_of(image)
    width, height = image.size
    result = allocated(width, height) if orientation >= 5 else allocated(height, width)
    image.load()
    if image.size != (width, height):
        raise ValueError("the size has changed while it was decoded")
    lying = _as_stored(result, orientation)
    to_rgb = _conversion(image, stored, low)
    for box in _tiles(width, height):
        lying[box[1] : box[3], box[0] : box[2]] = to_rgb(box)
    return result


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    across = min(width, TILE_PIXELS)
    down = max(1, TILE_PIXELS // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


# How it is turned -----------------------------------------------------------------------------


def _orientation_of(image: PILImage.Image) -> int:
    """Read the orientation from Pillow, that tag alone: other tags may be damaged."""
    if isinstance(raw := image.info.get("exif"), bytes):
        return exif_orientation(raw)
    if "xmp" in image.info or "XML:com.adobe.xmp" in image.info:
        return 1  # Pillow would read it from there, but no browser does
    try:
        number = image.getexif().get(0x112)
    except Exception:  # damaged EXIF data raises many types and is no reason to refuse the pixels
        return 1
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def _as_stored(upright: Pixels, orientation: int) -> Pixels:
    """View the upright result in the file's orientation, so that rows written through it come out upright."""
    view = upright.transpose(1, 0, 2) if orientation >= 5 else upright
    if orientation in (3, 4, 6, 7):
        view = view[::-1]
    if orientation in (2, 3, 7, 8):
        view = view[:, ::-1]
    return view


# Colours --------------------------------------------------------------------------------------

ToRGB = Callable[[tuple[int, int, int, int]], Any]


def _conversion(image: PILImage.Image, stored: Stored | None, low: PILImage.Image | None) -> ToRGB:
    """Choose, once by mode, the function that converts a box of the image to RGB on white."""
    whole = (0, 0, *image.size)

    def tile(box: tuple[int, int, int, int]) -> PILImage.Image:
        return image if box == whole else image.crop(box)

    if image.mode.startswith(("I", "F")):
        to_grey = _wide_grey(image, stored)
        return lambda box: to_grey(np.asarray(tile(box)))[:, :, None]
    _scale_transparency(image, stored)
    profile = stored.profile if stored is not None and stored.profile else image.info.get("icc_profile")
    to_srgb = _to_srgb(profile, image.mode)
    if low is not None:
        return _with_exact_transparency(image, low, to_srgb)
    if image.mode in OPAQUE and "transparency" not in image.info:
        return lambda box: np.asarray(to_srgb(tile(box)))
    return lambda box: np.asarray(_on_white(tile(box), to_srgb))


def _on_white(tile: PILImage.Image, to_srgb: Callable[[PILImage.Image], PILImage.Image]) -> PILImage.Image:
    if tile.mode == "La":
        tile = tile.convert("LA")
    clear = tile.convert("RGBA")
    alpha = clear.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return to_srgb(clear.convert("RGB"))
    colored = to_srgb(clear.convert("RGB"))
    colored.putalpha(alpha)
    return PILImage.alpha_composite(PILImage.new("RGBA", colored.size, "WHITE"), colored).convert("RGB")


def _scale_transparency(image: PILImage.Image, stored: Stored | None) -> None:
    """Scale the transparent grey of a 2- or 4-bit PNG to the 8 bits that Pillow decodes to."""
    value = image.info.get("transparency")
    if stored is not None and stored.depth in (2, 4) and image.mode == "L" and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**stored.depth - 1)


def _low_bytes(image: PILImage.Image, stored: Stored | None) -> PILImage.Image | None:
    """Read the low bytes of a 16-bit RGB PNG with one transparent colour, which all 16 bits define."""
    if stored is None or stored.depth != 16 or image.mode != "RGB" or "transparency" not in image.info:
        return None
    low = PILImage.open(io.BytesIO(stored.data), formats=["PNG"])
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # takes the other byte of each pair
    low.load()
    return low


def _take_both_bytes(image: PILImage.Image, stored: Stored | None) -> None:
    """Fix a TIFF with 16-bit colours in separate planes, where Pillow reads every byte as a sample."""
    if stored is None or stored.depth != 16 or image.format != "TIFF" or len(image.getbands()) == 1:
        return
    order = "L" if stored.data[:2] == b"II" else "B"

    def corrected(tile: Any) -> Any:
        if tile.codec_name != "raw" or tile.args[0] not in image.getbands():
            return tile
        if image.mode not in ("RGB", "RGBA"):
            raise ImageError(
                f"the image is a TIFF whose 16-bit {image.mode} colours lie in planes of their own, which cannot "
                "be read; save it with interleaved ones, or as PNG."
            )
        return tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))

    image.tile = [corrected(tile) for tile in image.tile]  # type: ignore[attr-defined]


def _with_exact_transparency(
    image: PILImage.Image, low: PILImage.Image, to_srgb: Callable[[PILImage.Image], PILImage.Image]
) -> ToRGB:
    color = np.array(image.info.pop("transparency"), np.int64)

    def converted(box: tuple[int, int, int, int]) -> Pixels:
        high_bytes, low_bytes = image.crop(box), np.asarray(low.crop(box))
        is_clear = ((np.asarray(high_bytes) == color >> 8) & (low_bytes == color & 255)).all(axis=2)
        rgb = np.array(to_srgb(high_bytes))
        rgb[is_clear] = 255
        return rgb

    return converted


def _wide_grey(image: PILImage.Image, stored: Stored | None) -> Callable[[NDArray[Any]], Pixels]:
    """Choose the conversion of 16-bit, 32-bit and float greys to 8 bits; Pillow's own clips them at 255.

    White is the largest value of the sample's width where a file says it. Else it is the least of 1 (of
    floats), 255 and 65,535 that no value exceeds, or the largest value.
    """
    inverted = stored is not None and stored.inverted
    unsigned = stored is not None and stored.unsigned and image.mode == "I"
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16") and (stored is not None or image.format is not None):
        depth = stored.depth if stored is not None and stored.depth is not None else 16
        white = float(2 ** min(depth, 16) - 1)
    else:
        largest = _largest(image, unsigned=unsigned)
        steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((step for step in steps if largest <= step), largest)

    def to_grey(values: NDArray[Any]) -> Pixels:
        values = values.view(np.uint32) if unsigned else values
        numbers = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=white, neginf=0.0)
        grey = (numbers.clip(0, white) * (255.0 / white)).round().astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(clear, int):
            grey[values == clear] = 255
        return grey

    return to_grey


def _largest(image: PILImage.Image, *, unsigned: bool) -> float:
    """The largest finite value."""
    largest = 0.0
    for box in _tiles(*image.size):
        values = np.asarray(image.crop(box))
        values = values.view(np.uint32) if unsigned else values
        largest = max(largest, float(values.max(initial=0, where=np.isfinite(values))))
    return largest


def _to_srgb(profile: object, mode: str) -> Callable[[PILImage.Image], PILImage.Image]:
    """Choose a conversion to RGB that follows the image's colour profile, if it has one that fits its mode."""

    def plain(tile: PILImage.Image) -> PILImage.Image:
        return tile if tile.mode == "RGB" else tile.convert("RGB")

    if not isinstance(profile, bytes) or not profile:
        return plain
    from PIL import ImageCms

    space = profile[16:20]
    source = {b"RGB ": "RGB", b"CMYK": "CMYK", b"GRAY": "L"}.get(space)
    grey, cmyk = mode in ("1", "L", "LA", "La"), mode == "CMYK"
    if source is None or (source == "L") != grey or (source == "CMYK") != cmyk:
        return plain
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(given))
        # The library's shortcut for grey is off by up to 10 of 255 for a steep profile, and not needed here.
        flags = ImageCms.Flags.NOOPTIMIZE if grey else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), source, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # a damaged profile: use the stored colours
        return plain

    def managed(tile: PILImage.Image) -> PILImage.Image:
        given_tile = tile if tile.mode == source else tile.convert(source)
        return ImageCms.applyTransform(given_tile, transform) or given_tile

    samples = _samples(source)
    moved = np.abs(np.asarray(managed(samples), np.int16) - np.asarray(plain(samples), np.int16)).max()
    if moved <= SAME_COLORS:
        return plain
    return _by_table(managed) if grey else managed


def _by_table(convert: Callable[[PILImage.Image], PILImage.Image]) -> Callable[[PILImage.Image], PILImage.Image]:
    """Tabulate a conversion for the 256 greys."""
    table = np.asarray(convert(PILImage.frombytes("L", (256, 1), bytes(range(256)))))[0]

    def converted(tile: PILImage.Image) -> PILImage.Image:
        return PILImage.fromarray(table[np.asarray(tile if tile.mode == "L" else tile.convert("L"))])

    return converted


def _samples(mode: str) -> PILImage.Image:
    """Make one image of colours from all over the mode's space."""
    bands = PILImage.getmodebands(mode)
    steps = np.linspace(0, 255, 33 if bands == 1 else 7).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * bands), axis=-1).reshape(1, -1, bands)
    return PILImage.frombytes(mode, (grid.shape[1], 1), grid.tobytes())
