"""Images of every kind and shape, and the ones that must be refused."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from tessera.errors import ImageError
from tessera.images import grid_of, load, prepare, side_of, token_count
from tessera.messages import Image
from tessera.model.config import VisionConfig
from tessera.sources import ImageLimits

SHAPE = {
    "hidden_size": 64, "rope_theta": 1e4, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1
}  # fmt: skip
PIXTRAL = VisionConfig(image_size=1024, patch_size=16, **SHAPE)
SMALL_31 = VisionConfig(image_size=1540, patch_size=14, spatial_merge_size=2, **SHAPE)


def encoded(image: PILImage.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def two_colors(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> PILImage.Image:
    """Red above, blue below."""
    image = PILImage.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (0, size[1] // 2, size[0], size[1]))
    return image.convert(mode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format(kind: str) -> None:
    image = load(Image(encoded(two_colors(), kind)))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    red, _, blue = image.getpixel((20, 3))
    assert red > 150 > 100 > blue


@pytest.mark.parametrize("size", [(256, 256, 272), (512, 512, 1056), (640, 480, 1230), (1024, 768, 3120),
                                  (1920, 1080, 2340), (1024, 1024, 4160)])  # fmt: skip
def test_published_token_counts(size: tuple[int, int, int]) -> None:
    assert token_count(grid_of(size[0], size[1], PIXTRAL)) == size[2]


def test_exif_rotation_comes_first(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    image = load(Image(encoded(two_colors(), "JPEG", exif=exif)))
    assert image.size == (20, 40)
    assert image.getpixel((17, 20))[0] > 150  # the upper half has become the right one


def test_transparency_is_white() -> None:
    clear = PILImage.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert load(Image(encoded(clear, "PNG"))).getpixel((3, 3)) == (255, 255, 255)
    palette = PILImage.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert load(Image(encoded(palette, "PNG", transparency=0))).getpixel((3, 3)) == (255, 255, 255)
    assert load(Image(encoded(palette, "PNG"))).getpixel((3, 3)) == (10, 20, 30)
    half = PILImage.new("LA", (8, 8), (0, 128))
    assert abs(load(Image(encoded(half, "PNG"))).getpixel((3, 3))[0] - 127) <= 1


def test_grey_cmyk_and_sixteen_bits() -> None:
    assert load(Image(encoded(PILImage.new("L", (8, 8), 77), "PNG"))).getpixel((3, 3)) == (77, 77, 77)
    assert load(Image(encoded(PILImage.new("1", (8, 8), 1), "PNG"))).getpixel((3, 3)) == (255, 255, 255)
    red = load(Image(encoded(two_colors("CMYK"), "JPEG"))).getpixel((20, 3))
    assert red[0] > 150 > red[2]
    deep = PILImage.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16))
    assert load(Image(encoded(deep, "PNG"))).getpixel((3, 3)) == (128, 128, 128)
    assert load(Image(encoded(deep, "TIFF"))).getpixel((3, 3)) == (128, 128, 128)


def test_first_frame_of_an_animation() -> None:
    frames = [PILImage.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load(Image(data)).getpixel((3, 3)) == (255, 0, 0)


def test_sources(tmp_path: Path) -> None:
    data = encoded(two_colors(), "PNG")
    file = tmp_path / "page.png"
    file.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    expected = two_colors().tobytes()
    for source in (file, str(file), data, url, two_colors()):
        assert load(Image(source)).tobytes() == expected


def test_low_detail_caps_the_long_side() -> None:
    assert grid_of(1920, 1080, PIXTRAL, max_side=512) == (18, 32)
    assert grid_of(300, 200, PIXTRAL, max_side=512) == grid_of(300, 200, PIXTRAL)
    wide = PILImage.new("RGB", (1024, 64))
    assert prepare(wide, PIXTRAL, max_side=512).pixels_CHW.shape == (3, 32, 512)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1), (17, 3)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    prepared = prepare(load(Image(encoded(PILImage.new("RGB", size, "red"), "PNG"))), PIXTRAL)
    rows, columns = prepared.grid
    assert prepared.pixels_CHW.shape == (3, rows * 16, columns * 16)
    assert min(prepared.grid) >= 1


@pytest.mark.parametrize("vision", [PIXTRAL, SMALL_31])
@pytest.mark.parametrize("shape", [(1, 6_000_000), (6_000_000, 1), (2, 3_000_000), (17, 400_000), (400_000, 17),
                                   (3000, 2000), (600, 10_000)])  # fmt: skip
def test_preparing_takes_memory_of_the_result_whatever_the_shape(shape: tuple[int, int], vision: VisionConfig) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    tracemalloc.start()
    try:
        prepared = prepare(pixels, vision)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 3 * prepared.pixels_CHW.nbytes + (16 << 20)


@given(st.integers(1, 20000), st.integers(1, 20000), st.sampled_from([PIXTRAL, SMALL_31]))
def test_grids_are_within_the_model(width: int, height: int, vision: VisionConfig) -> None:
    rows, columns = grid_of(width, height, vision)
    assert 1 <= rows <= vision.image_size // vision.token_size
    assert 1 <= columns <= vision.image_size // vision.token_size


def test_digest_tells_images_apart() -> None:
    white = PILImage.new("RGB", (32, 64), "white")
    digests = {
        prepare(white, PIXTRAL).digest,
        prepare(PILImage.new("RGB", (64, 32), "white"), PIXTRAL).digest,
        prepare(PILImage.new("RGB", (32, 64), "black"), PIXTRAL).digest,
        prepare(white, SMALL_31).digest,
    }
    assert len(digests) == 4
    assert prepare(white.copy(), PIXTRAL).digest == prepare(white, PIXTRAL).digest


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 99)
        + b"IDAT"
    )


REFUSED = {
    "bomb": (png_header(20_000, 20_000), "more than|400 megapixels"),
    "huge": (png_header(9_000, 8_000), "72 megapixels, and the limit is 64"),
    "empty": (b"", "0 bytes"),
    "text": (b"Dear Sir or Madam, this is no image", "not an image in a known format"),
    "truncated": (encoded(two_colors(size=(400, 400)), "PNG")[:200], "damaged or cut short"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image in a known format"),
    "data url": ("data:image/png;base64,!!!!", "not valid base64"),
    "data url form": ("data:image/png,plain", "must be data:image"),
    "missing": ("no/such/file.png", "does not exist"),
    "folder": ("/", "not a regular file"),
    "odd name": ("\0", "not the path of a readable image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_images_end_in_one_sentence(kind: str) -> None:
    source, says = REFUSED[kind]
    with pytest.raises(ImageError, match=says) as refused:
        load(Image(source))
    assert "\n" not in str(refused.value)
    assert "0x" not in str(refused.value)


def test_too_many_bytes(tmp_path: Path) -> None:
    file = tmp_path / "big.png"
    file.write_bytes(b"x" * 2000)
    for source in (file, b"x" * 2000, "data:image/png;base64," + "A" * 4000):
        with pytest.raises(ImageError, match=r"the limit is 1,000 \(max_bytes\)"):
            load(Image(source), ImageLimits(max_bytes=1000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damage_never_escapes_as_another_error(kind: str) -> None:
    data = encoded(two_colors(size=(24, 24)), kind)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        inverted = bytearray(data)
        inverted[position] ^= 0xFF
        for broken in (bytes(flipped), bytes(inverted), data[:position]):
            began = time.monotonic()
            with contextlib.suppress(ImageError):
                assert load(Image(broken)).mode == "RGB"
            assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("image", "limit", "side"),
    [
        (Image("x"), None, None), (Image("x"), 700, 700), (Image("x", max_side=400), 700, 400),
        (Image("x", max_side=900), 700, 700), (Image("x", low_detail=True, max_side=900), None, 512),
    ],
    ids=["neither", "the setting", "the request", "the smaller", "low detail"],
)  # fmt: skip
def test_the_smallest_bound_of_an_image_holds(image: Image, limit: int | None, side: int | None) -> None:
    assert side_of(image, ImageLimits(max_side=limit)) == side
