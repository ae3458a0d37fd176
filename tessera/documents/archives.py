"""Archives and mails: their members as sources, within limits of number, size and ratio.

Nothing is unpacked to a member's own name, so a name that points elsewhere is only a name. Members are read again
from their archive when a page of theirs is rendered later.
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from tessera.documents.kinds import MAX_DIRECTORY_BYTES, directory_bytes
from tessera.documents.limits import PageLimits
from tessera.documents.page import PageError
from tessera.documents.sources import Source, distinct, is_ignored, locked_words, temporary
from tessera.errors import DocumentError

PIECE = 1 << 20
RATIO_FROM_BYTES = 10_000_000  # smaller members cannot harm, however well they are packed
LOCKED = 0x1  # in a member's flags


def member_name(outer: str, name: str, taken: set[str]) -> str:
    """Return a member's name as it is shown, and add it to those that are taken.

    It lacks the parts of a path that lead out of the archive; several of one name are told apart.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    text = "".join(sign if sign.isprintable() else "\ufffd" for sign in "/".join(parts))
    return distinct(f"{outer}/{text[-500:] or 'unnamed'}", taken)


class Zip:
    """A zip's members. The list is read once for the first pass, and again for a later look at one member."""

    def __init__(self, source: Source, passwords: tuple[str, ...]) -> None:
        self._source = source
        self._limits = source.limits
        self._passwords = passwords
        self._lock = threading.Lock()
        self._open: zipfile.ZipFile | None = None

    def members(self) -> Iterator[Source | PageError]:
        """Yield the documents in it by name, and an error for each that may not be unpacked."""
        total, taken = 0, set[str]()
        with self._source.open() as file, self._archive(file) as archive:
            wanted = [info for info in archive.infolist() if not info.is_dir() and not _is_ignored(info.filename)]
            if len(wanted) > self._limits.max_members:
                raise too_many_members(self._source.name, len(wanted), self._limits)
            if not wanted:
                raise DocumentError(f"{self._source.name} contains no files; check the archive.", code="empty")
            self._open = archive
            try:
                for info in sorted(wanted, key=lambda info: info.filename):
                    name = member_name(self._source.name, info.filename, taken)
                    total += info.file_size
                    try:
                        check_size(name, info, self._limits)
                        check_total(name, total, self._limits)
                        yield replace(self._source, name=name, opener=partial(self._member, name, info))
                    except DocumentError as error:
                        yield PageError(name, None, str(error.code), str(error))
            finally:
                self._open = None

    def _archive(self, file: BinaryIO) -> zipfile.ZipFile:
        if (size := directory_bytes(file)) > MAX_DIRECTORY_BYTES:
            raise DocumentError(
                f"{self._source.name} is a zip whose list of members has {size:,} bytes, and the limit is "
                f"{MAX_DIRECTORY_BYTES:,}; unpack it.",
                code="too_large",
            )
        try:
            return zipfile.ZipFile(file)
        except Exception as error:  # damaged lists raise many types
            raise _damaged(self._source.name) from error

    def _member(self, name: str, info: zipfile.ZipInfo) -> BinaryIO:
        with self._lock:
            if self._open is not None:
                return self._unpacked(name, info, self._open)
            with self._source.open() as file, self._archive(file) as archive:
                return self._unpacked(name, info, archive)

    def _unpacked(self, name: str, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> BinaryIO:
        for password in self._passwords if info.flag_bits & LOCKED else (None,):
            try:
                with archive.open(info, pwd=None if password is None else password.encode()) as packed:
                    return copied(name, packed.read, info.file_size)
            except NotImplementedError as error:
                raise DocumentError(
                    f"{name} is packed or locked in a way that cannot be read here; unpack the archive.",
                    code="unsupported",
                ) from error
            except (RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # how a wrong password shows
                if password is None:
                    raise _damaged(name) from error
            except (OSError, EOFError, ValueError) as error:
                raise _damaged(name) from error
        raise DocumentError(locked_words(name, len(self._passwords)), code="password_required")


def copied(name: str, read: Callable[[int], bytes], stated: int) -> BinaryIO:
    """Copy a member to a file of its own, and no more of it than its archive states."""
    file = temporary()
    try:
        left = stated
        while piece := read(min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise _damaged(name)
            file.write(piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def too_many_members(name: str, count: int, limits: PageLimits) -> DocumentError:
    return DocumentError(
        f"{name} contains {count:,} files and the limit is {limits.max_members:,} (max_members); unpack it, or raise "
        "the limit.",
        code="too_large",
    )


def _is_ignored(name: str) -> bool:
    return any(is_ignored(part) for part in name.split("/") if part not in (".", ".."))


def check_total(name: str, total: int, limits: PageLimits) -> None:
    """Raise DocumentError for an archive whose members have too many bytes together."""
    if total > limits.max_unpacked_bytes:
        raise DocumentError(
            f"{name}: the archive's members have more than {limits.max_unpacked_bytes:,} bytes (max_unpacked_bytes); "
            "unpack it, or raise the limit.",
            code="too_large",
        )


def check_size(name: str, info: zipfile.ZipInfo, limits: PageLimits) -> None:
    """Raise DocumentError for a member that is larger than it may be, or packed as only bombs are."""
    limits.check_bytes(name, info.file_size)
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > RATIO_FROM_BYTES and ratio > limits.max_ratio:
        raise DocumentError(
            f"{name} unpacks to {ratio:,.0f} times its size and the limit is {limits.max_ratio} (max_ratio); unpack it "
            "yourself if you trust it, or raise the limit.",
            code="too_large",
        )


def _damaged(name: str) -> DocumentError:
    return DocumentError(f"{name} is damaged or cut short; pack it again, or send the whole file.", code="damaged")
