"""Decoding in children: right pixels, deadlines and bounds that hold, and a pool that works on after them."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from tessera.decoding import BASE_BYTES, BYTES_PER_PIXEL, Decoders, deadline_s
from tessera.errors import ImageError
from tessera.fetch import Stop
from tessera.raster import decode
from tessera.sources import ImageLimits
from tests.test_images import encoded, two_colors
from tests.test_raster import chunk, with_scans

LIMITS = ImageLimits()
GOOD = encoded(two_colors(size=(80, 48)), "PNG")
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what Linux tells of a process")


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(2)
    yield decoders
    decoders.close()


@pytest.fixture(scope="module")
def lasting_decoders() -> Iterator[Decoders]:
    """For tests that ask for nothing but pixels."""
    decoders = Decoders(2)
    yield decoders
    decoders.close()


def slow_jpeg() -> bytes:
    """25 megapixels under nearly as many scans as are allowed: seconds of work in a small file."""
    return with_scans(90, (5000, 5000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_child_gives_what_decoding_here_gives(lasting_decoders: Decoders, kind: str) -> None:
    noise = PILImage.fromarray(np.random.default_rng(2).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert (lasting_decoders.decode("it", data, LIMITS) == decode("it", data, LIMITS)).all()


def test_a_child_is_kept_and_its_errors_are_ours(decoders: Decoders) -> None:
    decoders.decode("it", GOOD, LIMITS)
    (first,) = decoders._idle
    for data, says in ((b"hello", "it .* not an image"), (GOOD[:80], "damaged or cut short")):
        with pytest.raises(ImageError, match=says):
            decoders.decode("it", data, LIMITS)
    with pytest.raises(ImageError, match=r"the limit is 0 \(--max-image-pixels\)"):
        decoders.decode("it", GOOD, ImageLimits(max_pixels=7, flags=("max_pixels",)))
    assert decoders.decode("it", GOOD, LIMITS).shape == (48, 80, 3)
    assert decoders._idle == [first]


def test_what_takes_too_long_is_ended_and_the_next_is_decoded() -> None:
    decoders = Decoders(1, limit_s=lambda num_pixels: 0.5 if num_pixels > 10**6 else 60)
    try:
        with pytest.raises(ImageError, match="takes longer to decode"):
            decoders.decode("it", slow_jpeg(), LIMITS)
        assert not decoders._idle
        assert decoders.decode("it", GOOD, LIMITS).shape == (48, 80, 3)
    finally:
        decoders.close()


def test_the_processors_time_is_bounded_too(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that computes on, whatever the clock says, is ended by the system."""
    busy = "import tessera.decoding as d; d.BASE_S = 1.0; d.PIXELS_PER_S = 1e12; d.PATIENCE = 1000; "
    monkeypatch.setattr("tessera.decoding.BEFORE_SERVING", busy)
    with pytest.raises(ImageError, match="takes longer to decode"):
        decoders.decode("it", with_scans(90, (8000, 7900)), LIMITS)  # four seconds of a fast core
    monkeypatch.undo()
    assert decoders.decode("it", GOOD, LIMITS).shape == (48, 80, 3)


def test_a_image_nobody_waits_for_is_ended(decoders: Decoders) -> None:
    stop, ended = Stop(), threading.Event()

    def work() -> None:
        with pytest.raises(ImageError):
            decoders.decode("it", slow_jpeg(), LIMITS, stop)
        ended.set()

    decoders.decode("it", GOOD, LIMITS)
    process = decoders._idle[0].process
    threading.Thread(target=work).start()
    while decoders._idle:
        time.sleep(0.01)
    stop.set()
    assert ended.wait(60)
    assert process.poll() is not None
    assert decoders.decode("it", GOOD, LIMITS).shape == (48, 80, 3)


def test_a_child_that_died_is_replaced(decoders: Decoders) -> None:
    decoders.decode("it", GOOD, LIMITS)
    decoders._idle[0].process.kill()
    decoders._idle[0].process.wait()
    assert decoders.decode("it", GOOD, LIMITS).shape == (48, 80, 3)


def test_closing_leaves_no_child(decoders: Decoders) -> None:
    decoders.decode("it", GOOD, LIMITS)
    process = decoders._idle[0].process
    decoders.close()
    assert process.poll() is not None


def test_many_at_once(decoders: Decoders) -> None:
    results: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda: results.append(decoders.decode("it", GOOD, LIMITS).shape)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(48, 80, 3)] * 12
    assert len(decoders._idle) <= 2


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@linux
def test_no_descriptor_is_left_behind(decoders: Decoders) -> None:
    for data in (GOOD, GOOD[:80], b"x"):
        before: int | None = None
        for _ in range(20):
            with contextlib.suppress(ImageError):
                decoders.decode("it", data, LIMITS)
            before = before or descriptors()
        assert descriptors() == before


@linux
def test_a_child_cannot_take_more_memory_than_its_image_may(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.decoding.BEFORE_SERVING", "import tessera.decoding as d; d.BASE_BYTES = 2**20; "
                        "d.BYTES_PER_PIXEL = 1; ")  # fmt: skip
    large = encoded(PILImage.new("RGBA", (3000, 3000)), "PNG")
    for _ in range(3):  # a child that has run out of memory is not asked again
        with pytest.raises(ImageError, match="needs more memory to decode"):
            decoders.decode("it", large, LIMITS)


@linux
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "I;16", "F", "RGBA16"])
def test_memory_is_of_the_image_and_its_result(decoders: Decoders, mode: str) -> None:
    """4 bytes a pixel as Pillow keeps it, 3 of the result, and a tile; 9 megapixels are 63 MB."""
    side = 3000
    if mode == "RGBA16":
        rows = zlib.compress(bytes((1 + 8 * side) * side))
        head = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    elif mode in ("I;16", "F"):
        file = io.BytesIO()
        kind = np.uint16 if mode == "I;16" else np.float32
        PILImage.fromarray(np.zeros((side, side), kind)).save(file, "TIFF", compression="tiff_lzw")
        data = file.getvalue()
    else:
        data = encoded(PILImage.new(mode, (side, side)), "PNG")
    decoders.decode("it", GOOD, LIMITS)
    pid = decoders._idle[0].process.pid
    before = peak_bytes(pid)
    decoders.decode("it", data, LIMITS)
    assert peak_bytes(pid) - before < 7 * side * side + (64 << 20)


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_the_limits_are_stated() -> None:
    assert deadline_s(64_000_000) <= 60
    assert BASE_BYTES + BYTES_PER_PIXEL * 64_000_000 < 1.6e9
