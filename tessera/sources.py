"""Image sources: reading an image's bytes from a path, bytes, a data URL or an http(s) URL, if allowed.

The library, the command line and the server all read images through here. A program on one's own
machine may read any file; a server reads none, or those in one folder (`local_files`).
"""

from __future__ import annotations

import binascii
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from tessera.errors import FetchError, ImageError, printable
from tessera.fetch import Stop, fetch

SCHEME = re.compile(r"(blob:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
# First base64 characters of JPEG, PNG, GIF, WebP, TIFF, BMP, AVIF and HEIF.
BARE_BASE64 = re.compile(
    r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|Qk[0-9A-Za-z+/]{2}|AAAA[A-Z])[A-Za-z0-9+/=\s]{40,}"
)
CHARS_PER_CALL = 2**20  # of base64, in whole groups of four: other threads may run between calls

SHOWN = 80  # characters of a source in an error
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits beyond which an image is refused, and the side to which a larger one is scaled."""

    max_pixels: int = 64_000_000
    max_bytes: int = 50_000_000
    max_side: int | None = None  # pixels along the longer edge, to which images are scaled; None: the model's
    fetch_timeout_s: float = 10.0
    allow_private_addresses: bool = False
    domains: tuple[str, ...] | None = None  # hosts that may be fetched from; None: any public one
    local_files: Path | Literal["any"] | None = "any"  # readable files: those below a folder, any, or none
    proxy: str | None = None  # URLs are fetched through it
    flags: tuple[str, ...] = ()  # limits that the user knows as command-line flags

    def name_of(self, limit: Literal["max_pixels", "max_bytes"]) -> str:
        """Return the user's name for a limit."""
        return f"--{limit.replace('max_', 'max-image-')}" if limit in self.flags else limit


def is_data_url(source: object) -> bool:
    return isinstance(source, str) and source[:5].lower() == "data:"


def is_url(source: object) -> bool:
    """Return True if reading the source means contacting another machine."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def read(source: str | Path | bytes, limits: ImageLimits, stop: Stop | None = None) -> tuple[str, bytes]:
    """Return a name for messages and the encoded bytes; raises ImageError or FetchError with the way out."""
    if isinstance(source, bytes):
        name, data = "the image", source
    elif isinstance(source, str) and is_data_url(source):
        name, data = "the image", _decode_data_url(source, limits)
    elif isinstance(source, str) and is_url(source):
        name, data = _show(source), _fetch(source, limits, stop)
    else:
        name, data = _show(str(source)), _read_file(source, limits)
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(name, len(data), limits)
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); check the file or the download.")
    return name, data


def _fetch(url: str, limits: ImageLimits, stop: Stop | None) -> bytes:
    def check_domain(host: str) -> None:
        if limits.domains is not None and host not in limits.domains:
            raise FetchError(
                f"the host {host[:80]!r} is not one that images may be fetched from; send the image as a data URL."
            )

    return fetch(
        url,
        max_bytes=limits.max_bytes,
        timeout_s=limits.fetch_timeout_s,
        allow_private_addresses=limits.allow_private_addresses,
        check_host=check_domain,
        proxy=limits.proxy,
        stop=stop,
    )


def _read_file(source: str | Path, limits: ImageLimits) -> bytes:
    name = _show(str(source))
    if isinstance(source, str):
        _check_is_path(source, name)
    if limits.local_files is None:
        raise ImageError(f"{name} is not a data URL or http(s) URL, and files are not read here; send a data URL.")
    try:
        path = _path_of(source)
        name = _show(str(path))
        resolved = path.resolve()
        if limits.local_files != "any" and not resolved.is_relative_to(limits.local_files.resolve()):
            raise ImageError(f"{name} lies outside the folder that images may be read from; send a data URL.")
        if not resolved.exists():
            raise ImageError(f"{name} does not exist; check the spelling and the folder.")
        if resolved.is_dir():
            raise ImageError(f"{name} is a folder, not a regular file; name an image in it.")
        if not resolved.is_file():
            raise ImageError(f"{name} is not a regular file; give the path of an image.")
        # The file may have been replaced by a pipe, which would hang, or by a link that leads elsewhere.
        with open(os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > limits.max_bytes:
                raise _too_many_bytes(name, size, limits)
            return file.read(limits.max_bytes + 1)
    except PermissionError as error:
        raise ImageError(f"{name} may not be read by this user; change its permissions.") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"{name} is not the path of a readable image; check the spelling.") from error


def _check_is_path(source: str, name: str) -> None:
    """Raise for a string not meant as a path: an error about files would be misleading."""
    if not source:
        raise ImageError("the image's name is empty; give a path, an http(s) URL or a data URL.")
    if BARE_BASE64.match(source):
        raise ImageError(
            f"{_show(source[:24])}... is base64 without a header; put data:image/png;base64, (or image/jpeg) first."
        )
    scheme = SCHEME.match(source)
    if scheme and scheme[0].lower() != "file://":
        raise ImageError(
            f"{name} begins with {scheme[0][:20]}, which is not read here; images come from http(s) URLs, data URLs "
            "and files."
        )


def _path_of(source: str | Path) -> Path:
    """Return a path, also from a file URL of this machine."""
    if isinstance(source, str) and re.match("file:/", source, re.IGNORECASE):
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise ImageError(f"{_show(source)} names another machine; only files of this one can be read.")
        return Path(unquote(parts.path))
    return Path(source)


def _show(text: str) -> str:
    """Make a name for messages: short, and without characters that would break a line or a terminal.

    The beginning of a URL says most, and the end of a path.
    """
    if len(text) > SHOWN:
        text = f"{text[: SHOWN - 3]}..." if ADDRESS.match(text) else f"...{text[3 - SHOWN :]}"
    return printable(text)


def _too_many_bytes(name: str, size: int, limits: ImageLimits) -> ImageError:
    return ImageError(
        f"{name} has {size:,} bytes and the limit is {limits.max_bytes:,} ({limits.name_of('max_bytes')}); send a "
        "smaller file or raise it."
    )


def _decode_data_url(url: str, limits: ImageLimits) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageError(f"the data URL begins with {head[:40]!r}; it must be data:image/...;base64,DATA.")
    if len(payload) * 3 // 4 > limits.max_bytes + 3:
        raise _too_many_bytes("the image", len(payload) * 3 // 4, limits)
    try:
        text = "".join(payload.split())
        return b"".join(
            binascii.a2b_base64(text[start : start + CHARS_PER_CALL], strict_mode=True)
            for start in range(0, len(text), CHARS_PER_CALL)
        )
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the data URL's {len(payload):,} characters are not valid base64; encode it anew.") from error
