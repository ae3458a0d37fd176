"""Image file containers: strips a file to what its decoder needs, and reads the metadata that affects pixels.

Orientation and colour profile are read here, each under a guard; everything else that does not change a pixel
(texts, thumbnails, camera data) is removed, so that none of it can make an image fail or cost more than
its bytes. Sources: the specifications of JPEG (T.81), PNG, TIFF 6.0, EXIF 2.3 and ISO/IEC 23008-12.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tessera.errors import ImageError

MAX_SCANS = 100  # in a JPEG: each is another pass over the whole image; encoders write about 10
MAX_PARTS = 100_000  # segments or chunks in one file
MAX_STRIPS = 100_000  # in a TIFF: no image within the usual limits has more rows
MAX_PROFILE_BYTES = 8_000_000
MAX_TIFF_VALUE_BYTES = 2_000_000  # in one tag other than the strips: a palette, or JPEG tables
MAX_TEXT_BYTES = 1_000_000

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x112
SUBFILE_TYPE = 254  # its lowest bit: a small copy of another image
PROFILE = 34675
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED = 1, 2
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
# The tags that define how a TIFF's pixels are stored; all others only describe it.
TIFF_TAGS = frozenset(
    (256, 257, BITS, 259, PHOTOMETRIC, 266, STRIP_OFFSETS, 277, 278, STRIP_BYTES, 284, 292, 293, 317, 320, 322, 323,
     TILE_OFFSETS, TILE_BYTES, 338, SAMPLE_FORMAT, 347, *range(512, 522), 529, 530, 531, 532)
)  # fmt: skip
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
# The next marker in a JPEG's coded data: FF 00 is a stored FF, FF D0 to FF D7 are restarts, FF FF is padding.
NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@dataclass(frozen=True)
class Stored:
    """A file without the parts that do not affect pixels, and the metadata read from it.

    `orientation` is EXIF's number; None: the decoder finds it. `depth` is the bits of a grey or
    colour sample, if that matters; `inverted`: greys count ink, not light; `unsigned`: its 32 bits have no
    sign; `size` is known only if opening alone would take memory for it.
    """

    data: bytes
    orientation: int | None = None
    profile: bytes | None = None
    depth: int | None = None
    inverted: bool = False
    unsigned: bool = False
    size: tuple[int, int] | None = None


def read_container(name: str, data: bytes) -> Stored:
    """Strip an image's file for its decoder; raises ImageError for one built to waste time."""
    if data[:3] == b"\xff\xd8\xff":
        return _read_jpeg(name, data)
    if data[:8] == PNG_SIGNATURE:
        return _read_png(name, data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _read_tiff(name, data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Stored(data, size=_webp_size(data))
    return Stored(_without_exif_item(data) if data[4:8] == b"ftyp" else data)


def exif_orientation(raw: bytes) -> int:
    """Read the orientation, 1 to 8, from a block of EXIF data; 1 if it is absent or invalid."""
    while raw[:6] == b"Exif\0\0":  # some writers store it twice
        raw = raw[6:]
    try:
        tiff = _Tiff(raw)
        number = next((tiff.first_number(entry) for entry in tiff.entries() if entry.tag == ORIENTATION), None)
    except (struct.error, ValueError):
        return 1
    return number if number is not None and 1 <= number <= 8 else 1


# JPEG -----------------------------------------------------------------------------------------


def _read_jpeg(name: str, data: bytes) -> Stored:
    """Keep the needed segments before the first scan, and everything from there on."""
    kept, exif, profile, first_scan, scans = [data[:2]], b"", {}, len(data), 0
    for marker, start, stop in _segments(name, data):
        body = data[start + 4 : stop] if scans == 0 else b""
        if marker == 0xDA:
            first_scan, scans = min(first_scan, start), scans + 1
            if scans > MAX_SCANS:
                raise ImageError(
                    f"{name} is a JPEG of more than {MAX_SCANS} scans, each of which passes over all its pixels; "
                    "save it anew."
                )
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif += body[6:] if exif else body
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0" and len(body) > 14:
            profile[body[12]] = body[14:]
        if scans == 0 and _is_needed(marker, body):
            kept.append(data[start:stop])
    joined = b"".join(profile[number] for number in sorted(profile)) or None
    return Stored(b"".join((*kept, data[first_scan:])), exif_orientation(exif), joined)


def _is_needed(marker: int, body: bytes) -> bool:
    """Return True if a segment affects decoding; application segments and comments do not, with two exceptions."""
    if marker == 0xE0:
        return body[:5] == b"JFIF\0" and len(body) >= 14
    if marker == 0xEE:
        return body[:5] == b"Adobe" and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _segments(name: str, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment up to the end of the image or file."""
    position = 2
    for _ in range(MAX_PARTS):
        found = NEXT_MARKER.search(data, position)
        if found is None or (marker := data[found.start() + 1]) == 0xD9:
            return
        start = found.start()
        if marker == 0x01 or marker == 0xD8:
            position = start + 2
            continue
        if start + 4 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, start + 2)
        position = start + 2 + max(length, 2)
        yield marker, start, position
    raise _too_many_parts(name, "segments")


# PNG ------------------------------------------------------------------------------------------


def _read_png(name: str, data: bytes) -> Stored:
    """Keep critical chunks and transparency; drop the rest unread."""
    spans, exif, profile, depth = [(0, 8)], b"", None, None
    for kind, start, stop in _chunks(name, data):
        body_start, body_stop = start + 8, stop - 4
        if not kind[0] & 0x20 or kind == b"tRNS":
            if spans[-1][1] == start:
                spans[-1] = (spans[-1][0], stop)
            else:
                spans.append((start, stop))
        if kind == b"IHDR":
            depth = data[body_start + 8] if body_stop - body_start >= 9 else None
        elif kind == b"eXIf":
            exif = exif or data[body_start:body_stop]
        elif kind in (b"tEXt", b"zTXt") and data[body_start : body_start + 22] == b"Raw profile type exif\0":
            exif = exif or _raw_profile(data[body_start + 22 : body_stop], kind == b"zTXt")
        elif kind == b"iCCP" and profile is None:
            profile = _png_profile(data[body_start:body_stop])
    kept = data if spans == [(0, len(data))] else b"".join(data[start:stop] for start, stop in spans)
    return Stored(kept, exif_orientation(exif), profile, depth)


def _chunks(name: str, data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of each chunk up to the image's end; the last may be truncated."""
    position = 8
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = min(position + 12 + length, len(data))
        yield kind, position, stop
        if kind == b"IEND":
            return
        position = stop
    raise _too_many_parts(name, "chunks")


def _raw_profile(text: bytes, compressed: bool) -> bytes:
    """Read EXIF as ImageMagick stores it in a text: a name, a length, then hexadecimal digits."""
    try:
        content = _unzip(text[1:], MAX_TEXT_BYTES) if compressed else text[:MAX_TEXT_BYTES]
        return bytes.fromhex(b"".join(content.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _png_profile(body: bytes) -> bytes | None:
    title, separator, rest = body.partition(b"\0")
    if not separator or len(title) > 79 or rest[:1] != b"\0":
        return None
    try:
        return _unzip(rest[1:], MAX_PROFILE_BYTES)
    except ValueError:
        return None


def _unzip(packed: bytes, most: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(packed, most)
    except zlib.error as error:
        raise ValueError("not in zlib's format") from error
    if reader.unconsumed_tail:
        raise ValueError("larger than allowed")
    return content


# TIFF -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    count: int
    at: int  # position of the value, or of its offset
    raw: bytes

    @property
    def num_bytes(self) -> int:
        return TIFF_SIZES.get(self.kind, 1) * self.count


class _Tiff:
    """The first directory of a TIFF or BigTIFF file, or of EXIF data, which has the same form."""

    def __init__(self, data: bytes) -> None:
        if data[:2] not in (b"II", b"MM"):
            raise ValueError("no TIFF header")
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        (version,) = struct.unpack_from(f"{self.order}H", data, 2)
        if version not in (42, 43):
            raise ValueError("no TIFF header")
        self.big = version == 43
        self.offset_size = 8 if self.big else 4
        (self.start,) = struct.unpack_from(self._offset, data, 8 if self.big else 4)

    @property
    def _offset(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    def entries(self) -> Iterator[_Entry]:
        (count,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'H'}", self.data, self.start)
        size, position = (20, self.start + 8) if self.big else (12, self.start + 2)
        for _ in range(min(count, MAX_PARTS)):
            if position + size > len(self.data):
                return
            tag, kind, length = struct.unpack_from(f"{self.order}HH{'Q' if self.big else 'I'}", self.data, position)
            at = position + size - self.offset_size
            yield _Entry(tag, kind, length, at, self.data[position : position + size])
            position += size

    def next_start(self) -> int:
        """Return the place of the directory after this one; 0: there is none."""
        (count,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'H'}", self.data, self.start)
        end = self.start + (8 + 20 * count if self.big else 2 + 12 * count)
        return int(struct.unpack_from(self._offset, self.data, end)[0])

    def value(self, entry: _Entry) -> bytes:
        """Return an entry's bytes, as many as the file has."""
        if entry.num_bytes <= self.offset_size:
            return self.data[entry.at : entry.at + entry.num_bytes]
        (offset,) = struct.unpack_from(self._offset, self.data, entry.at)
        return self.data[offset : offset + entry.num_bytes]

    def first_number(self, entry: _Entry) -> int | None:
        if entry.kind not in WHOLE_NUMBERS or entry.count < 1:
            return None
        try:
            return int(struct.unpack_from(f"{self.order}{WHOLE_NUMBERS[entry.kind]}", self.value(entry))[0])
        except struct.error:  # it points outside the file
            return None

    def changed(self, entry: _Entry, number: int) -> _Entry:
        """Return the entry with one short number as its value."""
        size = self.offset_size
        head = struct.pack(f"{self.order}HH{'Q' if self.big else 'I'}", entry.tag, 3, 1)
        return _Entry(entry.tag, 3, 1, entry.at, head + struct.pack(f"{self.order}H", number).ljust(size, b"\0"))

    def with_directory(self, entries: list[_Entry]) -> bytes:
        """Return the file with a single directory of these entries, appended at the end."""
        count = struct.pack(f"{self.order}{'Q' if self.big else 'H'}", len(entries))
        directory = count + b"".join(entry.raw for entry in entries) + bytes(self.offset_size)
        padding = bytes(-len(self.data) % 8)
        head = self.data[: 8 if self.big else 4] + struct.pack(self._offset, len(self.data) + len(padding))
        return b"".join((head, self.data[len(head) :], padding, directory))


def tiff_images(data: bytes) -> list[int]:
    """Return the places of a TIFF's directories, one for each image; small copies of one are left out."""
    places: list[int] = []
    seen: set[int] = set()
    try:
        tiff = _Tiff(data)
        while tiff.start and tiff.start not in seen and len(seen) < MAX_PARTS:
            seen.add(tiff.start)
            kinds = [tiff.first_number(entry) or 0 for entry in tiff.entries() if entry.tag == SUBFILE_TYPE]
            if not kinds or not kinds[0] & 1 or not places:
                places.append(tiff.start)
            tiff.start = tiff.next_start()
    except (struct.error, ValueError):  # cut short: what comes before is readable
        return places
    return places


def with_first_image(data: bytes, place: int) -> bytes:
    """Return a TIFF whose first image is the one at `place`."""
    tiff = _Tiff(data)
    tiff.start = place
    return tiff.with_directory(list(tiff.entries()))


def _read_tiff(name: str, data: bytes) -> Stored:
    """Keep only the first directory and the tags in `TIFF_TAGS`; the decoder would read every directory whole."""
    found: dict[int, _Entry] = {}
    try:
        tiff = _Tiff(data)
        for entry in tiff.entries():
            found.setdefault(entry.tag, entry)
    except struct.error as error:
        raise ImageError(f"{name} is a TIFF cut short in its header; send the whole file again.") from error
    kept = [entry for tag, entry in sorted(found.items()) if tag in TIFF_TAGS]
    for entry in kept:
        _check_entry(name, entry)
    numbers = {
        tag: tiff.first_number(found[tag]) for tag in (ORIENTATION, PHOTOMETRIC, BITS, SAMPLE_FORMAT) if tag in found
    }
    # Pillow inverts greys of up to 8 bits itself, and reads only some of the wider ones that count ink.
    inverted = numbers.get(PHOTOMETRIC) == WHITE_IS_ZERO and (numbers.get(BITS) or 1) > 8
    if inverted:
        kept = [tiff.changed(entry, BLACK_IS_ZERO) if entry.tag == PHOTOMETRIC else entry for entry in kept]
    unsigned = numbers.get(BITS) == 32 and numbers.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED
    if unsigned:  # Pillow reads these in one byte order only, and as signed
        others = [entry for entry in kept if entry.tag != SAMPLE_FORMAT]
        signed = tiff.changed(replace(found[BITS], tag=SAMPLE_FORMAT), SIGNED)
        kept = sorted((*others, signed), key=lambda entry: entry.tag)
    profile = found.get(PROFILE)
    orientation = numbers.get(ORIENTATION) or 1
    return Stored(
        tiff.with_directory(kept),
        orientation if 1 <= orientation <= 8 else 1,
        None if profile is None or profile.num_bytes > MAX_PROFILE_BYTES else tiff.value(profile),
        numbers.get(BITS),
        inverted,
        unsigned=unsigned,
    )


def _check_entry(name: str, entry: _Entry) -> None:
    if entry.tag in (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES):
        if entry.count > MAX_STRIPS:
            raise ImageError(
                f"{name} is a TIFF of {entry.count:,} strips, and at most {MAX_STRIPS:,} are read; save it anew."
            )
    elif entry.num_bytes > MAX_TIFF_VALUE_BYTES:
        raise ImageError(
            f"{name} is a TIFF whose tag {entry.tag} has {entry.num_bytes:,} bytes, and at most "
            f"{MAX_TIFF_VALUE_BYTES:,} are read; save it anew."
        )


# WebP -----------------------------------------------------------------------------------------


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from the first chunk."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


# AVIF and HEIF --------------------------------------------------------------------------------


def _without_exif_item(data: bytes) -> bytes:
    """Hide the EXIF item under another type: the file's own boxes hold its orientation, as the format requires."""
    position = 0
    for _ in range(1000):
        if position + 16 > len(data):
            return data
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = len(data) if size == 0 else position + size
        if kind == b"meta":
            return data[:position] + _hide_exif(data[position:end]) + data[end:]
        if size < 8:
            return data
        position = end
    return data


def _hide_exif(box: bytes) -> bytes:
    patched = bytearray(box)
    for found in re.finditer(rb"infe[\x02\x03]", box):
        at = found.start() + (12 if box[found.end() - 1] == 2 else 14)
        if box[at : at + 4] == b"Exif":
            patched[at : at + 4] = b"skip"
    return bytes(patched)


def _too_many_parts(name: str, what: str) -> ImageError:
    return ImageError(f"{name} has more than {MAX_PARTS:,} {what}; save it anew.")
