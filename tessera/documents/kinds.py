"""What a file is, by its content: its name may lie."""

from __future__ import annotations

import re
import zipfile
from email.parser import BytesHeaderParser
from typing import BinaryIO, Literal

from tessera.raster import BEGINNINGS

Kind = Literal["pdf", "image", "tiff", "zip", "mail", "office", "locked_office", "outlook", "unknown"]
HEAD = 65_536
MAX_DIRECTORY_BYTES = 16_000_000  # of a zip's list of members
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
END_OF_ZIP = re.compile(b"PK\5\6.{18}", re.DOTALL)
OFFICE_FOLDERS = ("word/", "xl/", "ppt/")
OPEN_DOCUMENT = b"application/vnd.oasis.opendocument."
MAIL_FIELDS = ("from", "to", "subject", "date", "mime-version", "received", "message-id", "return-path")


def kind_of(file: BinaryIO) -> Kind:
    """Tell what a file is. It is left at its beginning."""
    head = file.read(HEAD)
    kind = _kind(head, file)
    file.seek(0)
    return kind


def _kind(head: bytes, file: BinaryIO) -> Kind:
    for name, beginning in BEGINNINGS.items():
        if re.match(beginning, head, re.DOTALL):
            return "tiff" if name == "TIFF" else "image"
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return _kind_of_zip(file)
    if head.startswith(OLE):
        return _kind_of_ole(head, file)
    if head.startswith(b"{\\rtf"):
        return "office"
    if _is_mail(head):
        return "mail"
    # Last, because something may stand before it: a zip's first member, a mail's text.
    return "pdf" if b"%PDF-" in head[:1024] else "unknown"


def _kind_of_zip(file: BinaryIO) -> Kind:
    if directory_bytes(file) > MAX_DIRECTORY_BYTES:
        return "zip"  # and refused there
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "[Content_Types].xml" in names and any(name.startswith(OFFICE_FOLDERS) for name in names):
                return "office"
            if names[:1] == ["mimetype"] and (member := archive.infolist()[0]).file_size < 200:
                return "office" if archive.read(member).startswith(OPEN_DOCUMENT) else "zip"
    except Exception:  # a damaged list raises many types; the reader of archives says so
        return "zip"
    return "zip"


def directory_bytes(file: BinaryIO) -> int:
    """Return the bytes of a zip's list of members, as its end states them; the list is read whole into memory."""
    size = file.seek(0, 2)
    file.seek(max(size - HEAD - 22, 0))
    ends = END_OF_ZIP.findall(file.read())
    file.seek(0)
    return max((int.from_bytes(end[12:16], "little") for end in ends), default=0)


def _kind_of_ole(head: bytes, file: BinaryIO) -> Kind:
    """Tell Office's older files, and newer ones that are locked, from Outlook's messages: by their streams' names."""
    file.seek(0)
    names = file.read(50_000_000)
    if "EncryptedPackage".encode("utf-16-le") in names:
        return "locked_office"
    return "outlook" if "__substg1.0_".encode("utf-16-le") in names else "office"


def _is_mail(head: bytes) -> bool:
    if not re.match(rb"(?:From .*\r?\n)?[A-Za-z][A-Za-z0-9-]*:[ \t]", head):
        return False
    message = BytesHeaderParser().parsebytes(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0])
    return sum(field in message for field in MAIL_FIELDS) >= 2
