"""Uploads as multipart/form-data, read piece by piece: a file of any size goes to its writer, fields stay small.

RFC 7578 and 2046. Written here because nothing that is installed bounds parts, headers and fields as they come.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

from tessera.server.errors import BadRequestError

MAX_PARTS = 16
MAX_HEADER_BYTES = 8192  # of one part
MAX_FIELD_BYTES = 4096  # of a part that is no file
MAX_NAME = 255  # characters of a file's name
_BOUNDARY = re.compile(r"""boundary=(?:"([^"\\]{1,70})"|([A-Za-z0-9'()+_,./:=?-]{1,70}))""", re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition:[ \t]*form-data[ \t]*(;[^\r\n]*)?", re.IGNORECASE)
_PARAMETER = re.compile(r""";[ \t]*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^;" ]+))""", re.IGNORECASE)

Writer = Callable[[bytes], Awaitable[None]]


class Form:
    """The fields of an upload, by name, and the file's own name."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None


async def read_form(content_type: str, stream: AsyncIterator[bytes], write: Writer, file_field: str = "file") -> Form:
    """Read a form; the bytes of its one file are awaited into `write`. Raises BadRequestError for what is no form."""
    kind = content_type.partition(";")[0].strip().lower()
    found = _BOUNDARY.search(content_type)
    if kind != "multipart/form-data" or found is None:
        shown = repr(kind[:60]) if kind else "missing"
        raise BadRequestError(
            f"the content type is {shown}; send the file as multipart/form-data, with the fields file and purpose."
        )
    mark = b"\r\n--" + (found[1] or found[2]).encode()
    form, source = Form(), _Source(stream)
    await source.skip(mark)
    for _ in range(MAX_PARTS):
        if await source.peek(2) == b"--":  # the last boundary: nothing that follows means anything
            return form
        name, file_name = _headers(await source.until(b"\r\n\r\n", MAX_HEADER_BYTES, "a part's headers"))
        if name in form.fields or (name == file_field and form.file_name is not None):
            raise BadRequestError(f"the form has two parts named {name[:60]!r}; send one.", param=name[:60])
        if name == file_field:
            form.file_name = _base_name(file_name)
            async for piece in source.part(mark):
                await write(piece)
        else:
            value = await source.until(mark, MAX_FIELD_BYTES, f"the field {name[:60]!r}")
            try:
                form.fields[name] = value.decode()
            except UnicodeDecodeError as error:
                raise BadRequestError(f"the field {name[:60]!r} is not in UTF-8.", param=name[:60]) from error
    raise BadRequestError(f"the form has more than {MAX_PARTS} parts, which is the limit; send fewer fields.")


def _headers(data: bytes) -> tuple[str, str | None]:
    """The name of a part, and of its file."""
    found = _DISPOSITION.search(data.removeprefix(b"\r\n"))
    told = {name.lower(): _unquoted(quoted, plain) for name, quoted, plain in _parameters(found)}
    if "name" not in told:
        raise BadRequestError("a part of the form has no name; it needs `Content-Disposition: form-data; name=...`.")
    return told["name"], told.get("filename")


def _parameters(found: re.Match[bytes] | None) -> list[tuple[str, str, str]]:
    return [] if found is None else _PARAMETER.findall((found[1] or b"").decode(errors="replace"))


def _unquoted(quoted: str, plain: str) -> str:
    text = re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
    return text.replace("%22", '"').replace("%0D", "").replace("%0A", "")  # as browsers write quotes in names


def _base_name(name: str | None) -> str:
    """The last part of a name, which is only shown: no path is made of it."""
    text = "".join(sign for sign in (name or "").replace("\\", "/").rpartition("/")[2] if sign.isprintable())
    return text[:MAX_NAME] or "upload"


class _Source:
    """The bytes of a body as they come, with those that were read too far."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream, self._held = stream, bytearray(b"\r\n")  # so that the first boundary looks like the others

    async def skip(self, mark: bytes) -> None:
        """Pass over everything up to the first boundary; there should be nothing."""
        await self.until(mark, MAX_HEADER_BYTES, "what comes before the first part")

    async def peek(self, count: int) -> bytes:
        while len(self._held) < count:
            await self._more()
        return bytes(self._held[:count])

    async def until(self, mark: bytes, limit: int, what: str) -> bytes:
        """Return what comes before the mark, and pass over both."""
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > limit + len(mark):
                raise BadRequestError(f"{what} has more than {limit:,} bytes, which is the limit.")
            await self._more()
        if at > limit:
            raise BadRequestError(f"{what} has more than {limit:,} bytes, which is the limit.")
        before = bytes(self._held[:at])
        del self._held[: at + len(mark)]
        return before

    async def part(self, mark: bytes) -> AsyncIterator[bytes]:
        """Yield what comes before the mark, piece by piece, and pass over it."""
        while (at := self._held.find(mark)) < 0:
            keep = len(mark) - 1  # the mark may have begun
            if len(self._held) > keep:
                piece = bytes(self._held[:-keep])
                del self._held[:-keep]
                yield piece
            await self._more()
        if at:
            yield bytes(self._held[:at])
        del self._held[: at + len(mark)]

    async def _more(self) -> None:
        async for chunk in self._stream:
            if chunk:
                self._held += chunk
                return
        raise BadRequestError("the form ends before its last boundary; send it whole.")
