"""What a page of one file holds besides its style and script: lines of JSON, and images of pages within limits."""

from __future__ import annotations

import base64
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tessera.documents.page import Page
from tessera.errors import DocumentError

Pages = Callable[[str, int], Page | None]
LARGEST_EXACT = 2**53 - 1  # of integers in a browser
# "<" and "&" would end a script or begin markup; the two separators end a line in older JavaScript.
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True)
class Images:
    """Images that were written: what each shows, and how many are missing at a limit or could not be made."""

    shown: Sequence[Mapping[str, Any]]
    left_out: int
    failed: int


def write_images(
    file: IO[str], wanted: Sequence[tuple[str, int]], pages: Pages, *, side: int, count: int, size: int
) -> Images:
    """Write images of pages in the order given, at most `count` of them and about `size` bytes in all."""
    found: list[dict[str, Any]] = []
    failed = left_out = 0
    for index, (document, number) in enumerate(wanted):
        if len(found) == count or size <= 0:
            left_out = len(wanted) - index
            break
        image = _image(pages, document, number, side)
        if image is None:
            failed += 1
            continue
        data, (width, height) = image
        size -= len(data)
        file.write(f'<script type="text/plain" id="image-{len(found)}">{data}</script>\n')
        found.append({"document": document, "page": number, "width": width, "height": height})
    return Images(found, left_out, failed)


def _image(pages: Pages, document: str, number: int, side: int) -> tuple[str, tuple[int, int]] | None:
    try:
        page = pages(document, number)
        if page is None:
            return None
        image = page.image(side)
    except DocumentError:
        return None  # the record tells its error; a page that was readable before is only not shown
    file = io.BytesIO()
    # A printed page takes 18 to 25 KiB and 40 ms; as WebP a third of the bytes and ten times the time.
    image.convert("RGB").save(file, "JPEG", quality=60, optimize=True)
    return base64.b64encode(file.getvalue()).decode(), image.size


def spool(folder: Path) -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=folder)


def lines_of(*spools: IO[str]) -> Iterator[str]:
    for each in spools:
        each.seek(0)
        yield from each


def embeddable(value: Any) -> str:
    """JSON of one line that can stand within a script element and that a browser reads without loss."""
    return json.dumps(exact(value), ensure_ascii=True, allow_nan=False).translate(ESCAPES)


def exact(value: Any) -> Any:
    """Turn what a browser would round or refuse (long integers, infinities, other types) into text."""
    if isinstance(value, Mapping):
        return {str(key): exact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_EXACT:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)
