"""Mails: the attachments of a message as sources or, without any, its text as pages.

Images that the text itself shows, such as the logo of a signature, are no attachments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import partial
from html.parser import HTMLParser
from itertools import islice
from typing import BinaryIO

from tessera.documents.archives import member_name, too_many_members
from tessera.documents.page import PageError
from tessera.documents.sources import Source, temporary
from tessera.errors import DocumentError

MAX_MAIL_BYTES = 100_000_000  # the parser holds several copies
MAX_TEXT = 500_000  # characters of a message's text that become pages
MAX_MULTIPARTS = 300
BOUNDARY = re.compile(rb"boundary\s*=", re.IGNORECASE)
SHOWN_FIELDS = ("From", "To", "Date", "Subject")
BLOCKS = {"p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "table", "blockquote"}
HIDDEN = {"style", "script", "head", "title"}


class Mail:
    """A message whose attachments are read one by one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._message: EmailMessage | None = self._parsed()
        with _parsing(source.name):
            self.text = "" if self._attachments() else _text(self._message)

    def members(self) -> Iterator[Source | PageError]:
        """Yield the attachments in the message's order."""
        with _parsing(self._source.name):
            found = self._attachments()
            names = [part.get_filename() for part in found]
        if len(found) > self._source.limits.max_members:
            raise too_many_members(self._source.name, len(found), self._source.limits)
        try:
            taken: set[str] = set()
            for index, given in enumerate(names):
                name = member_name(self._source.name, given or f"attachment-{index + 1}", taken)
                yield replace(self._source, name=name, opener=partial(self._member, index))
        finally:
            self._message = None  # parsed again for a later look at one attachment

    def _member(self, index: int) -> BinaryIO:
        with _parsing(self._source.name):
            data = _payload(self._attachments()[index])
        file = temporary()
        file.write(data)
        file.seek(0)
        return file

    def _attachments(self) -> list[EmailMessage]:
        message = self._message or self._parsed()
        return [part for part in message.walk() if isinstance(part, EmailMessage) and _is_attachment(part)]

    def _parsed(self) -> EmailMessage:
        with self._source.open() as file:
            data = file.read(MAX_MAIL_BYTES + 1)
        if len(data) > MAX_MAIL_BYTES:
            raise DocumentError(
                f"{self._source.name} is a mail of more than {MAX_MAIL_BYTES:,} bytes; save its attachments and give "
                "those.",
                code="too_large",
            )
        with _parsing(self._source.name):
            if len(list(islice(BOUNDARY.finditer(data), MAX_MULTIPARTS + 1))) > MAX_MULTIPARTS:
                raise ValueError("the parser takes time by the square of nested parts")
            return BytesParser(_class=EmailMessage, policy=policy.default).parsebytes(data)


@contextmanager
def _parsing(name: str) -> Iterator[None]:
    """Turn what the parser raises for damaged fields, or for parts that are nested deeply, into an error of ours."""
    try:
        yield
    except Exception as error:  # it raises a dozen unrelated types
        raise DocumentError(f"{name} is a damaged mail; export it again.", code="damaged") from error


def _is_attachment(part: EmailMessage) -> bool:
    if part.is_multipart():
        return False
    if part.get_content_disposition() == "attachment":
        return True
    return part.get_filename() is not None and not (part.get_content_maintype() == "image" and "Content-ID" in part)


def _payload(part: EmailMessage) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _text(message: EmailMessage | None) -> str:
    """Return the message's fields and its text, with that of HTML if it has no plain one."""
    if message is None:
        return ""
    fields = [f"{name}: {_field(message, name)}" for name in SHOWN_FIELDS if name in message]
    body = message.get_body(("plain", "html"))
    text = ""
    if isinstance(body, EmailMessage):
        data = _payload(body)[: 4 * MAX_TEXT]
        try:
            text = data.decode(body.get_content_charset("utf-8"), "replace")
        except LookupError:  # an unknown charset
            text = data.decode("utf-8", "replace")
        text = _without_tags(text) if body.get_content_subtype() == "html" else text
    return "\n".join((*fields, "", text))[:MAX_TEXT]


def _field(message: EmailMessage, name: str) -> str:
    try:
        value = str(message[name])
    except Exception:  # a damaged address raises many types, and is shown as it is
        value = next(str(raw) for field, raw in message.raw_items() if field.lower() == name.lower())
    return " ".join(value.split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in HIDDEN
        self.pieces.append("\n" if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN
        self.pieces.append("\n" if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if self._hidden <= 0:
            self.pieces.append(" ".join(data.split()) + " " if data.strip() else "")


def _without_tags(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    lines = [line.strip() for line in "".join(parser.pieces).splitlines()]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before)
