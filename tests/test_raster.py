"""Images whose pixels are right whatever is written beside them, in every format, mode, profile and turn."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageCms, ImageOps, TiffImagePlugin

from tessera.containers import MAX_SCANS, MAX_STRIPS
from tessera.errors import ImageError
from tessera.images import load
from tessera.messages import Image
from tessera.raster import TILE_PIXELS
from tessera.sources import ImageLimits
from tests.test_images import encoded, two_colors

# 64 x 32 pixels, red above, blue below; the second is turned by its own boxes to 32 x 64 and has EXIF data.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAEcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAE9tZGF0AAAAQygBrxOAeNWFdV//4JKP/uhzw+DC5Qqn/jq0L9jR"
    "1/2GXK0ndOPCTihUkWI2iH/2Rv4lZfJwk9NEIhzatGDyMmaoiU4="
)
HEIC_TURNED = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAEcAAgAAAAACMwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEA"
    "AQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAHNtZGF0AAAAQygBrxOAeNWFdV//4JKP/uhzw+DC5Qqn/jq0L9jR"
    "1/2GXK0ndOPCTihUkWI2iH/2Rv4lZfJwk9NEIhzatGDyMmaoiU4AAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
JPEG, PNG = encoded(two_colors(size=(80, 48)), "JPEG"), encoded(two_colors(size=(80, 48)), "PNG")


def with_app(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def png_of(depth: int, color_type: int, size: tuple[int, int], rows: bytes, *chunks: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def ifd(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """TIFF data of one directory, each value of at most four bytes."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries
    )
    return head + struct.pack(f"{order}IH", 8, len(entries)) + body + bytes(4)


def turned(number: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return 0x112, 3, 1, struct.pack(f"{order}H", number)


def loaded(data: bytes) -> PILImage.Image:
    return load(Image(data))


# EXIF -----------------------------------------------------------------------------------------

TAGS = (0x100, 0x101, 0x10E, 0x10F, 0x110, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x213, 0x8298, 0x8769, 0x8825,
        0xA005, 0x9000, 0x927C, 0xA002, 0xA003, 0xFDE8)  # fmt: skip
VALUES = {1: b"\x01\x02\x03\x04", 2: b"abc\0", 3: b"\x01\x00\x02\x00", 4: b"\xff\xff\xff\xff", 5: b"\xf0\xff\xff\x7f",
          6: b"\xff\x01\x02\x03", 7: b"\x00\xff\x00\xff", 8: b"\xff\xff\xff\xff", 9: b"\xff\xff\xff\xff",
          10: b"\xf0\xff\xff\x7f", 11: b"\x00\x00\xc0\x7f", 12: b"\xf0\xff\xff\x7f", 13: b"\x00\x00\x00\x00",
          99: b"\x01\x01\x01\x01"}  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_of_any_type_keeps_a_photo_from_being_seen_upright(tag: int) -> None:
    mark = bytes(range(len(ifd(turned(6), turned(6)))))  # stands for EXIF data of two entries, all equally long
    webp = encoded(two_colors(size=(80, 48)), "WEBP", exif=mark)
    assert mark in webp
    for kind, count in itertools.product(VALUES, (1, 4, 2**31)):
        data = ifd(turned(6), (tag, kind, count, VALUES[kind]))
        for source in (
            with_app(JPEG, 0xE1, b"Exif\0\0" + data),
            with_chunk(PNG, chunk(b"eXIf", data)),
            webp.replace(mark, data),
        ):
            assert loaded(source).size == (48, 80), f"tag {tag:#x} of type {kind}, {count} values"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", range(0, 10))
def test_every_orientation_is_turned_as_pillow_turns_it(number: int, order: str) -> None:
    image = PILImage.fromarray(np.random.default_rng(1).integers(0, 256, (31, 47, 3), dtype=np.uint8))
    wanted = image.copy()
    wanted.getexif()[0x112] = number
    wanted = ImageOps.exif_transpose(wanted) if 1 <= number <= 8 else image
    data = ifd(turned(number, order), order=order)
    hexadecimal = f"\nexif\n{len(data) + 6:8}\n{(b'Exif' + bytes(2) + data).hex()}\n"
    plain, jpeg = encoded(image, "PNG"), encoded(image, "JPEG", quality=95, subsampling=0)
    for source in (
        with_chunk(plain, chunk(b"eXIf", data)),
        with_chunk(plain, chunk(b"eXIf", b"Exif\0\0Exif\0\0" + data)),
        with_chunk(plain, chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal.encode())),
        with_chunk(plain, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal.encode()))),
        encoded(image, "WEBP", lossless=True, exif=data),
        encoded(image, "TIFF", tiffinfo={0x112: number} if number else {}),
        encoded(image, "TIFF", compression="tiff_lzw", tiffinfo={0x112: number} if 1 <= number <= 8 else {}),
    ):
        assert loaded(source) == wanted
        assert load(Image(PILImage.open(io.BytesIO(source)))).size == wanted.size
    upright = np.asarray(loaded(with_app(jpeg, 0xE1, b"Exif\0\0" + data)), np.int16)
    assert np.abs(upright - np.asarray(wanted, np.int16)).mean() < 12  # what JPEG does to noise; unturned it is 85


GARBAGE = {
    "nothing": b"", "no header": b"hello, world" * 4, "header alone": b"II*\0", "far away": b"II*\0\xff\xff\xff\x7f",
    "many entries": b"II*\0\x08\0\0\0\xff\xff", "into itself": ifd((0x112, 3, 9, b"\x08\0\0\0")),
    "orientation as text": ifd((0x112, 2, 4, b"six\0")), "orientation as a fraction": ifd((0x112, 5, 1, b"\x08\0\0\0")),
    "zero": bytes(64), "ones": b"\xff" * 64, "half": ifd(turned(6))[:13],
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_where_exif_should_be_leaves_the_image_as_it_is(name: str) -> None:
    data, image = GARBAGE[name], two_colors(size=(80, 48))
    sources = [
        with_app(JPEG, 0xE1, b"Exif\0\0" + data),
        with_chunk(PNG, chunk(b"eXIf", data)),
        with_chunk(PNG, chunk(b"tEXt", b"Raw profile type exif\0" + b"\nexif\n    9\nzz" + data.hex().encode())),
        with_chunk(PNG, chunk(b"zTXt", b"Raw profile type exif\0\0" + data)),
    ]
    if data:
        sources.append(encoded(image, "WEBP", lossless=True, exif=data))
    right = ifd((0x112, 3, 1, b"\1"), (0x110, 2, 80, b"\0\0\0\0")).ljust(80, b"x")
    avif = encoded(image, "AVIF", exif=right)
    assert right[:20] in avif
    sources.append(avif.replace(right[:64], data[:64].ljust(64, b"\0")))
    for source in sources:
        assert loaded(source).size == (80, 48)


def test_avif_and_heif_are_turned_by_their_own_boxes() -> None:
    exif = PILImage.Exif()
    exif[0x112] = 6
    assert loaded(encoded(two_colors(size=(80, 48)), "AVIF", exif=exif)).size == (48, 80)  # Pillow writes the boxes
    for source, size in ((HEIC, (64, 32)), (HEIC_TURNED, (32, 64))):
        image = loaded(source)
        assert image.size == size
        first, last = image.getpixel((2, 2)), image.getpixel((size[0] - 3, size[1] - 3))
        red, blue = (first, last) if size == (64, 32) else (last, first)
        assert red[0] > 150 > 100 > red[2]
        assert blue[2] > 150 > 100 > blue[0]


def test_an_orientation_that_only_xmp_names_is_left_as_browsers_leave_it() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    for source in (with_app(JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp), with_chunk(PNG, text),
                   encoded(two_colors(size=(80, 48)), "WEBP", xmp=xmp),
                   encoded(two_colors(size=(80, 48)), "TIFF", tiffinfo={700: xmp})):  # fmt: skip
        assert loaded(source).size == (80, 48)
    for source in (JPEG, PNG):
        opened = PILImage.open(io.BytesIO(source))
        opened.info["xmp"] = xmp
        assert load(Image(opened)).size == (80, 48)


# What stands beside the pixels ----------------------------------------------------------------

ANCILLARY = (b"acTL", b"bKGD", b"cHRM", b"cICP", b"cLLI", b"dSIG", b"eXIf", b"fcTL", b"fdAT", b"gAMA", b"gIFg", b"gIFx",
             b"hIST", b"iCCP", b"iTXt", b"mDCV", b"oFFs", b"pCAL", b"pHYs", b"sBIT", b"sCAL", b"sPLT", b"sRGB", b"sTER",
             b"tEXt", b"tIME", b"zTXt", b"vpAg", b"caBX", b"prVt", b"orNT")  # fmt: skip
BIG = zlib.compress(bytes(3_000_000))
BODIES = {
    "empty": b"", "one byte": b"\1", "three": b"\1\2\3", "zeros": bytes(40), "ones": b"\xff" * 300,
    "text": b"prompt\0\0" + BIG, "international text": b"prompt\0\1\0\0\0" + BIG, "no zero": b"x" * 200,
    "long title": b"x" * 100 + b"\0\0" + zlib.compress(b"x"), "bad zlib": b"icc\0\0hello",
    "other method": b"icc\0\7abc",
    "large profile": b"icc\0\0" + zlib.compress(bytes(10_000_000)),
    "plain": b"a\0" + b"b" * 1_100_000,  # more than Pillow takes of one text
}  # fmt: skip


@pytest.mark.parametrize("kind", ANCILLARY)
def test_no_chunk_beside_the_pixels_refuses_a_png(kind: bytes) -> None:
    wanted = loaded(PNG)
    end = PNG.index(b"IEND") - 4
    for name, body in BODIES.items():
        good = chunk(kind, body)
        for one in (good, good[:-1] + bytes([good[-1] ^ 1]), good * (70 if len(good) < 10**5 else 2)):
            for source in (with_chunk(PNG, one), PNG[:end] + one + PNG[end:], PNG[:end] + one):
                assert loaded(source) == wanted, f"{kind!r} {name}"


def test_texts_may_be_many_and_large() -> None:
    texts = [chunk(b"tEXt", b"note\0" + b"x" * 1_000_000)] * 70
    image = load(Image(with_chunk(PNG, *texts)), ImageLimits(max_bytes=80_000_000))
    assert image == loaded(PNG)


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
def test_no_segment_of_an_application_refuses_a_jpeg(marker: int) -> None:
    wanted = loaded(JPEG)
    heads = (b"", b"JFIF\0", b"JFIF\0\1", b"JFXX\0", b"Adobe", b"Adobe\0d", b"Exif\0\0", b"ICC_PROFILE\0",
             b"ICC_PROFILE\0\1\1",
             b"ICC_PROFILE\0\0\0" + bytes(200), b"MPF\0", b"MPF\0II*\0", b"Photoshop 3.0\0",
             b"Photoshop 3.0\x008BIM\4\4\0",
             b"http://ns.adobe.com/xap/1.0/\0", b"FPXR\0", b"\xff\xd9", b"\xff\xda\0\2")  # fmt: skip
    for head, rest in itertools.product(heads, (b"", b"\0", b"\xff" * 200)):
        assert loaded(with_app(JPEG, marker, head + rest)) == wanted, head


def test_a_tiff_is_read_whatever_else_its_directory_says() -> None:
    wanted = two_colors(size=(80, 48))
    for tag, kind in itertools.product((269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 700, 33723, 34377, 34665,
                                        34853,
                                        50341, 65000), VALUES):  # fmt: skip
        data = bytearray(encoded(wanted, "TIFF", software="x"))
        at = data.index(struct.pack("<HH", 305, 2))
        data[at : at + 12] = struct.pack("<HHI", tag, kind, 1) + VALUES[kind]
        assert loaded(bytes(data)) == wanted, (tag, kind)


def test_words_after_the_end_and_no_end() -> None:
    for data in (JPEG, PNG):
        assert loaded(data + b"A" * 5000) == loaded(data)
    assert loaded(PNG[:-12]) == loaded(PNG)


# What would take hours ------------------------------------------------------------------------


def with_scans(count: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A progressive grey JPEG whose last scan, which refines what the others left, stands there so often."""
    image = encoded(PILImage.new("L", size, 200), "JPEG", progressive=True)
    last = image[image.rindex(b"\xff\xda") : -2]
    return image[:-2] + last * count + b"\xff\xd9"


def test_scans_without_number_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(encoded(two_colors(), "JPEG", progressive=True)).size == (40, 20)
    monkeypatch.setattr(PILImage, "open", lambda *a, **k: pytest.fail("it was opened"))
    for count in (MAX_SCANS + 1, 10_000):
        with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans"):
            loaded(with_scans(count))


def tiff_of(*entries: tuple[int, int, int, int]) -> bytes:
    return ifd(*((tag, kind, count, struct.pack("<I", value)) for tag, kind, count, value in entries))


def test_a_tiff_cannot_name_strips_or_values_without_number() -> None:
    size = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
    for tag in (273, 279, 324, 325):
        data = tiff_of(*size, (tag, 4, 1_000_000, 8)) + bytes(4_000_000)
        with pytest.raises(ImageError, match=f"1,000,000 strips, and at most {MAX_STRIPS:,}"):
            loaded(data)
    for tag in (320, 347):
        with pytest.raises(ImageError, match=f"tag {tag} has 4,000,000 bytes"):
            loaded(tiff_of(*size, (tag, 3, 2_000_000, 8)) + bytes(4_000_000))
    alike = [(40_000 + number, 7, 5_000_000, 8) for number in range(4000)]
    with pytest.raises(ImageError, match="begins as TIFF but is damaged"):
        loaded(tiff_of(*size, *alike) + bytes(5_000_000))


def test_a_file_cannot_have_parts_without_number() -> None:
    with pytest.raises(ImageError, match="more than 100,000 chunks"):
        loaded(PNG[:33] + chunk(b"tEXt", b"") * 100_001 + PNG[33:])
    with pytest.raises(ImageError, match="more than 100,000 segments"):
        loaded(JPEG[:2] + b"\xff\xfe\x00\x02" * 100_001 + JPEG[2:])


# Colours --------------------------------------------------------------------------------------


def grey_tiff(bits: int, photometric: int, values: np.ndarray, sample_format: int = 1, order: str = "<") -> bytes:
    height, width = values.shape
    head = 8 + 2 + 12 * 10 + 4
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    short = lambda value: struct.pack(f"{order}HH", value, 0)  # noqa: E731
    long = lambda value: struct.pack(f"{order}I", value)  # noqa: E731
    entries = [(256, 4, 1, long(width)), (257, 4, 1, long(height)), (258, 3, 1, short(bits)), (259, 3, 1, short(1)),
               (262, 3, 1, short(photometric)), (273, 4, 1, long(head)), (277, 3, 1, short(1)),
               (278, 4, 1, long(height)),
               (279, 4, 1, long(len(raw))), (339, 3, 1, short(sample_format))]  # fmt: skip
    return ifd(*entries, order=order) + raw


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_ink_and_light_are_told_apart(bits: int, order: str) -> None:
    ramp = np.linspace(0, 2**bits - 1, 16).round().astype(f"u{bits // 8}").reshape(4, 4)
    light = np.asarray(loaded(grey_tiff(bits, 1, ramp, order=order)))[:, :, 0]
    ink = np.asarray(loaded(grey_tiff(bits, 0, ramp, order=order)))[:, :, 0]
    assert (light == np.linspace(0, 255, 16).round().reshape(4, 4)).all()
    assert (np.abs(ink.astype(int) - (255 - light)) <= 0).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_ink_is_told_apart_when_packed(compression: str) -> None:
    image = PILImage.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    data = bytearray(file.getvalue())
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = b"\0\0"
    assert np.asarray(loaded(bytes(data)))[0, :, 0].tolist() == [255, 127, 0]


def test_twelve_bits_and_floats() -> None:
    packed = np.frombuffer(bytes([0xFF, 0xF8, 0x00, 0x00, 0x0F, 0xFF]), np.uint8).reshape(1, 6)
    twelve = bytearray(grey_tiff(12, 1, packed))
    twelve[twelve.index(struct.pack("<HHI", 256, 4, 1)) + 8] = 4
    assert np.asarray(loaded(bytes(twelve)))[0, :, 0].tolist() == [255, 128, 0, 255]
    floats = np.array([[0, 0.5, 1]], np.float32)
    assert np.asarray(loaded(grey_tiff(32, 1, floats, 3)))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(loaded(grey_tiff(32, 0, floats, 3)))[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_greys_of_32_bits_without_a_sign(order: str) -> None:
    full = np.array([[0, 2**30, 2**31, 2**32 - 1]], np.uint32)
    assert np.asarray(loaded(grey_tiff(32, 1, full, order=order)))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert np.asarray(loaded(grey_tiff(32, 0, full, order=order)))[0, :, 0].tolist() == [255, 191, 127, 0]
    small = np.array([[0, 64, 128, 255]], np.uint32)
    assert np.asarray(loaded(grey_tiff(32, 1, small, order=order)))[0, :, 0].tolist() == [0, 64, 128, 255]
    signed = np.array([[-5, 0, 2**20, 2**21]], np.int32)
    assert np.asarray(loaded(grey_tiff(32, 1, signed, 2, order=order)))[0, :, 0].tolist() == [0, 0, 128, 255]


def planar_tiff(samples: NDArray[np.floating], photometric: int, order: str) -> bytes:
    """An uncompressed TIFF of 16 bits whose bands, (B, H, W), lie one after the other, in strips of one row."""
    bands, height, width = samples.shape
    strips = [row.astype(f"{order}u2").tobytes() for band in samples for row in band]
    count, size = len(strips), 2 * width
    tables = 8 + 2 + 12 * 12 + 4
    body = tables + 2 * bands + 8 * count
    short = lambda value: struct.pack(f"{order}HH", value, 0)  # noqa: E731
    long = lambda value: struct.pack(f"{order}I", value)  # noqa: E731
    entries = [(256, 4, 1, long(width)), (257, 4, 1, long(height)), (258, 3, bands, long(tables)),
               (259, 3, 1, short(1)), (262, 3, 1, short(photometric)), (273, 4, count, long(tables + 2 * bands)),
               (277, 3, 1, short(bands)), (278, 4, 1, long(1)), (279, 4, count, long(tables + 2 * bands + 4 * count)),
               (284, 3, 1, short(2)), (338, 3, 1, short(2)), (339, 3, 1, short(1))]  # fmt: skip
    entries = entries if bands == 4 and photometric == 2 else [*entries[:10], (300, 3, 1, short(0)), entries[11]]
    offsets = struct.pack(f"{order}{count}I", *(body + size * number for number in range(count)))
    lengths = struct.pack(f"{order}{count}I", *[size] * count)
    return (
        ifd(*entries, order=order)
        + struct.pack(f"{order}{bands}H", *[16] * bands)
        + offsets
        + lengths
        + b"".join(strips)
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_16_bits_in_planes_of_their_own(order: str) -> None:
    ramp = np.linspace(0, 65535, 12).round().reshape(3, 4)
    colors = np.stack([ramp, 65535 - ramp, np.full_like(ramp, 0x12FE)])
    wanted = np.moveaxis(colors // 256, 0, -1)
    assert (np.asarray(loaded(planar_tiff(colors, 2, order))) == wanted).all()
    clear = np.concatenate([colors, np.zeros_like(ramp)[None]])
    assert (np.asarray(loaded(planar_tiff(clear, 2, order))) == 255).all()
    with pytest.raises(ImageError, match="16-bit CMYK colours lie in planes of their own"):
        loaded(planar_tiff(clear, 5, order))


WIDE = [
    ("int32", [0, 64, 128, 252], [0, 64, 128, 252]),  # as the reference has it
    ("uint16", [0, 64, 128, 252], [0, 64, 128, 252]),
    ("float32", [0, 64, 128, 252], [0, 64, 128, 252]),
    ("float32", [0, 0.25, 0.5, 1], [0, 64, 128, 255]),
    ("int32", [0, 256, 32768, 65535], [0, 1, 128, 255]),
    ("uint16", [0, 256, 32768, 65535], [0, 1, 128, 255]),
    ("float32", [0, 256, 32768, 65535], [0, 1, 128, 255]),
    ("int32", [-5, 0, 2**20, 2**21], [0, 0, 128, 255]),
    ("float32", [float("nan"), float("-inf"), float("inf"), 100], [0, 0, 255, 100]),
    ("float32", [float("nan")] * 4, [0] * 4),
]


@pytest.mark.parametrize(("kind", "values", "wanted"), WIDE)
def test_wide_greys(kind: str, values: list[float], wanted: list[int]) -> None:
    image = PILImage.fromarray(np.array([values], dtype=kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(load(Image(image)))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white(depth: int) -> None:
    most = 2**depth - 1
    values = np.array([0, 1, most], ">u2")
    if depth == 16:
        rows = b"\0" + values.tobytes()
    elif depth == 8:
        rows = b"\0" + values.astype(np.uint8).tobytes()
    else:
        bits = "".join(format(int(value), f"0{depth}b") for value in values).ljust(16, "0")
        rows = b"\0" + int(bits, 2).to_bytes(2, "big")[: -(-3 * depth // 8)]
    for clear in (0, 1):
        data = png_of(depth, 0, (3, 1), rows, chunk(b"tRNS", struct.pack(">H", clear)))
        shown = np.asarray(loaded(data))[0, :, 0].tolist()
        light = [round(int(value) * 255 / most) for value in values]
        assert shown == [255 if int(value) == clear else each for value, each in zip(values, light, strict=True)]


def test_the_transparent_colour_of_a_png_is_told_apart_by_all_its_bits() -> None:
    colors = [(0x1234, 0x5678, 0x9ABC), (0x1235, 0x5678, 0x9ABC), (0x1234, 0x5679, 0x9ABC), (0, 0, 0)]
    clear = chunk(b"tRNS", struct.pack(">3H", *colors[0]))
    data = png_of(16, 2, (4, 1), b"\0" + struct.pack(">12H", *sum(colors, ())), clear)
    assert np.asarray(loaded(data))[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A], [0x12, 0x56, 0x9A], [0] * 3]
    eight = png_of(8, 2, (2, 1), b"\0\1\2\3\4\5\6", chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert np.asarray(loaded(eight))[0].tolist() == [[255] * 3, [4, 5, 6]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX",
                                  "RGBa",
                                  "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"])  # fmt: skip
def test_every_mode_of_pillow(mode: str) -> None:
    rgb = PILImage.new("RGB", (3, 2), (200, 200, 200))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    elif mode == "La":
        image = rgb.convert("LA").convert("La")
    elif mode == "RGBa":
        image = rgb.convert("RGBA").convert("RGBa")
    elif mode.startswith("I;16"):
        image = PILImage.new(mode, (3, 2), 200)
    elif mode == "1":
        image = PILImage.new("1", (3, 2), 1)
    elif mode == "HSV":
        image = rgb.convert("HSV")
    elif mode == "PA":
        image = rgb.convert("P").convert("PA")
    else:
        image = rgb.convert(mode)
    shown = load(Image(image)).getpixel((1, 1))
    wanted = 255 if mode == "1" else 200
    assert max(abs(value - wanted) for value in shown) <= 6


def wide_gamut() -> bytes:
    """A profile whose red and green are exchanged: what follows it cannot be missed."""
    data = bytearray(SRGB)
    (count,) = struct.unpack_from(">I", data, 128)
    places = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i + 4 for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    data[red : red + 8], data[green : green + 8] = data[green : green + 8], data[red : red + 8]
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_followed(kind: str) -> None:
    image = PILImage.new("RGB", (32, 32), (200, 30, 30))
    options = {"lossless": True} if kind == "WEBP" else {}
    cases = ((wide_gamut(), (30, 200, 30)), (SRGB, (200, 30, 30)), (b"not a profile" * 20, (200, 30, 30)))
    for profile, wanted in cases:
        shown = loaded(encoded(image, kind, icc_profile=profile, **options)).getpixel((9, 9))
        assert max(abs(one - other) for one, other in zip(shown, wanted, strict=True)) <= 4


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_a_colour_profile_is_followed_under_transparency(mode: str) -> None:
    image = PILImage.new("RGBA", (4, 1), (200, 30, 30, 255))
    image.putpixel((0, 0), (200, 30, 30, 0))
    image.putpixel((1, 0), (200, 30, 30, 128))
    shown = np.asarray(loaded(encoded(image.quantize(4) if mode == "P" else image, "PNG", icc_profile=wide_gamut())))
    assert np.abs(shown[0].astype(int) - [[255] * 3, [142, 227, 142], [30, 200, 30], [30, 200, 30]]).max() <= 4


def test_srgb_leaves_every_pixel_as_it_is() -> None:
    noise = PILImage.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    assert loaded(encoded(noise, "PNG", icc_profile=SRGB)) == noise


def test_profiles_of_other_spaces_do_no_harm() -> None:
    grey = bytearray(SRGB)
    for space in (b"GRAY", b"CMYK", b"Lab ", b"    "):
        grey[16:20] = space
        for mode in ("L", "RGB", "LA", "RGBA", "P", "1"):
            data = encoded(two_colors(mode), "PNG", icc_profile=bytes(grey))
            assert loaded(data) == loaded(encoded(two_colors(mode), "PNG"))


# In tiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK", "F"])
def test_tiles_make_one_image(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    values = np.random.default_rng(5).integers(0, 256, (61, 67, 4), dtype=np.uint8)
    image = PILImage.fromarray(values, "RGBA")
    if mode in ("I;16", "F"):
        kind = np.uint16 if mode == "I;16" else np.float32
        image = PILImage.fromarray((values[:, :, 0].astype(np.uint32) * 257).astype(kind))
    else:
        image = image.convert(mode)
    whole = load(Image(image))
    for pixels in (50, 67, 500):
        monkeypatch.setattr("tessera.raster.TILE_PIXELS", pixels)
        assert load(Image(image)) == whole
    assert TILE_PIXELS > 67 * 61


# Words ----------------------------------------------------------------------------------------

SAYS: dict[str, tuple[bytes, str]] = {
    "pdf": (b"%PDF-1.7\n", "pdftoppm -png FILE.pdf page"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "export it as a PNG"),
    "half a jpeg's head": (JPEG[:200], "begins as JPEG but is damaged"),
    "a tiff of doubles": (grey_tiff(64, 1, np.zeros((2, 2)), 3), "of a kind of TIFF that cannot be read"),
    "half an avif": (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "begins as AVIF"),
    "unknown": (b"hello" * 10, "known are JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF"),
}


@pytest.mark.parametrize("name", SAYS)
def test_what_is_no_image_is_named(name: str) -> None:
    data, says = SAYS[name]
    with pytest.raises(ImageError, match=says):
        loaded(data)


SOURCES: dict[str, Callable[[Path], tuple[str, str]]] = {
    "empty": lambda folder: ("", "name is empty"),
    "folder": lambda folder: (str(folder), "is a folder"),
    "bare base64": lambda folder: (
        base64.b64encode(PNG).decode(),
        "base64 without a header; put data:image/png;base64,",
    ),
    "bare base64 of a JPEG": lambda folder: (base64.b64encode(JPEG).decode(), "base64 without a header"),
    "s3": lambda folder: ("s3://bucket/a.png", "begins with s3://, which is not read here"),
    "ftp": lambda folder: ("ftp://host/a.png", "begins with ftp://, which is not read here"),
    "blob": lambda folder: ("blob:http://host/1", "begins with blob:, which is not read here"),
    "outside": lambda folder: ("/etc/hostname", "lies outside the folder"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_no_source_is_named_with_a_local_folder_allowed(name: str, tmp_path: Path) -> None:
    source, says = SOURCES[name](tmp_path)
    with pytest.raises(ImageError, match=says):
        load(Image(source), ImageLimits(local_files=tmp_path))


def test_file_urls_of_both_forms_and_names_with_colons(tmp_path: Path) -> None:
    for name in ("a.png", "scan:1.png"):
        (tmp_path / name).write_bytes(PNG)
        for source in (f"file:{tmp_path}/{name}", f"file://{tmp_path}/{name}", f"{tmp_path}/{name}"):
            assert load(Image(source), ImageLimits(local_files=tmp_path)).size == (80, 48)


def test_errors_name_the_flags_where_there_are_flags() -> None:
    with pytest.raises(ImageError, match=r"the limit is 0 \(--max-image-pixels\)"):
        load(Image(PNG), ImageLimits(max_pixels=9, flags=("max_pixels",)))
    with pytest.raises(ImageError, match=r"the limit is 9 \(--max-image-bytes\)"):
        load(Image(PNG), ImageLimits(max_bytes=9, flags=("max_bytes",)))
    with pytest.raises(ImageError, match=r"the limit is 0 \(max_pixels\)"):
        load(Image(PNG), ImageLimits(max_pixels=9))


def test_the_reference_values_are_pillows_own() -> None:
    """What these tests take from Pillow has not moved: min-is-white of 8 bits is inverted by it alone."""
    assert TiffImagePlugin.OPEN_INFO[(TiffImagePlugin.II, 0, (1,), 1, (8,), ())] == ("L", "L;I")


# Against others' arithmetic ----------------------------------------------------------------------


def bmp_of(depth: int, compression: int, size: tuple[int, int], palette: bytes, data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, depth, compression, len(data), 2835, 2835, len(palette) // 4, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def rle_of(values: NDArray[np.uint8], depth: int, choose: np.random.Generator) -> bytes:
    """Rows from below in runs and stretches of any lengths, by the description of the format."""
    data = bytearray()
    for row in values[::-1]:
        place = 0
        while place < len(row):
            length = min(int(choose.integers(1, 9)), len(row) - place)
            part = row[place : place + length]
            if length >= 3 and choose.random() < 0.6:  # as it is, filled up to two bytes
                packed = part.tobytes() if depth == 8 else pack_nibbles(part)
                data += bytes((0, length)) + packed + b"\0" * (len(packed) % 2)
                place += length
                continue
            length = next((n for n, value in enumerate(part) if value != part[0]), length)
            data += bytes((length, int(part[0]) * (1 if depth == 8 else 17)))
            place += length
        data += b"\0\0"
    return bytes(data[:-2]) + b"\0\1"


def pack_nibbles(part: NDArray[np.uint8]) -> bytes:
    filled = np.append(part, [0] * (len(part) % 2)).astype(np.uint8)
    return (filled[::2] << 4 | filled[1::2]).tobytes()


@pytest.mark.parametrize("depth", [4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_runs_of_a_bmp_are_its_colours(depth: int, seed: int) -> None:
    choose = np.random.default_rng(seed)
    height, width = (int(each) for each in choose.integers(1, 40, 2))
    colors = choose.integers(0, 256, (2**depth, 3), dtype=np.uint8)
    values = choose.integers(0, 2**depth, (height, width), dtype=np.uint8)
    values[choose.random((height, width)) < 0.6] = 5
    palette = np.pad(colors[:, ::-1], ((0, 0), (0, 1))).tobytes()
    data = bmp_of(depth, 1 if depth == 8 else 2, (width, height), palette, rle_of(values, depth, choose))
    assert np.array_equal(np.asarray(loaded(data)), colors[values])


def test_a_delta_in_a_bmp_leaves_pixels_of_the_first_colour() -> None:
    palette = bytes((0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0))
    data = bmp_of(8, 1, (4, 3), palette, bytes((2, 1, 0, 2, 1, 1, 1, 2, 0, 0, 4, 1, 0, 1)))
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    wanted = [[green] * 4, [red, red, red, blue], [green, green, red, red]]
    assert np.array_equal(np.asarray(loaded(data)), np.array(wanted))


NOISE = np.random.default_rng(9).integers(0, 256, (24, 32, 4), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_ink_is_turned_to_light_by_the_plain_rule(kind: str) -> None:
    """Without a profile each of red, green and blue is what its ink and black leave of white."""
    image = PILImage.frombytes("CMYK", (32, 24), np.repeat(np.repeat(NOISE[::8, ::8], 8, 0), 8, 1).tobytes())
    data = encoded(image, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    stored = np.asarray(PILImage.open(io.BytesIO(data)), np.float64)
    wanted = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    assert np.abs(np.asarray(loaded(data), np.float64) - wanted).max() <= 1
    assert np.abs(np.asarray(loaded(data), np.int16) - np.asarray(image.convert("RGB"), np.int16)).mean() < 4


def profile_of(kind: bytes, space: bytes, between: bytes, parts: dict[bytes, bytes]) -> bytes:
    """A colour profile, written out by the ICC's description: nothing of Pillow's is in it."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"name\0" + bytes(78)
    tags, start, body = b"", 128 + 4 + (len(parts) + 1) * 12, b""
    for name, data in ({b"desc": text} | parts).items():
        tags += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, kind, space, between)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts) + 1) + tags + body


def grey_profile(gamma: float) -> bytes:
    """Of grey light by one power."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return profile_of(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": curve})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 3.0])
def test_a_profile_of_grey_is_followed(kind: str, gamma: float) -> None:
    """The light is the value to the power; what sRGB writes for that light is by its own definition."""
    greys = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    shown = np.asarray(
        loaded(encoded(PILImage.fromarray(greys), kind, icc_profile=grey_profile(gamma), **JPEG_OPTIONS.get(kind, {})))
    )
    light = (np.arange(256) / 255) ** gamma
    wanted = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.ptp(shown, axis=2).max() <= 1
    assert np.abs(shown[8].mean(axis=1) - wanted).max() <= (1.5 if kind != "JPEG" else 6)


JPEG_OPTIONS: dict[str, dict[str, int]] = {"JPEG": {"quality": 100}}


def ink_profile() -> bytes:
    """A printer's profile: the colours of the sixteen corners of ink, and all others between them."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    labs = [
        (95 - 20 * c - 30 * m - 5 * y - 50 * k * (1 - 0.3 * m), 40 * (m - c) * (1 - k), 60 * (y - 0.5 * c) * (1 - k))
        for c, m, y, k in corners
    ]
    table = bytes(
        value for light, a, b in labs for value in (round(max(light, 3) * 2.55), round(a + 128), round(b + 128))
    )
    same = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + same * 4 + table + same * 3
    return profile_of(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def test_ink_with_a_profile_is_what_littlecms_makes_of_it() -> None:
    image, profile = PILImage.frombytes("CMYK", (32, 24), NOISE.tobytes()), ink_profile()
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent(ImageCms.getDefaultIntent(given))
    wanted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), intent, outputMode="RGB")
    assert wanted is not None
    assert np.array_equal(np.asarray(loaded(encoded(image, "TIFF", icc_profile=profile))), np.asarray(wanted))
    assert np.abs(np.asarray(wanted, np.int16) - np.asarray(image.convert("RGB"), np.int16)).mean() > 20
    jpeg = encoded(image, "JPEG", icc_profile=profile, quality=100, subsampling=0)
    stored = PILImage.open(io.BytesIO(jpeg))
    wanted = ImageCms.profileToProfile(stored, given, ImageCms.createProfile("sRGB"), intent, outputMode="RGB")
    assert np.array_equal(np.asarray(loaded(jpeg)), np.asarray(wanted))
