"""Documents as parts of a chat: Mistral's `document_url` and `file`, OpenAI's `file` and `input_file`.

A part is read into a `PagesOf`, which stands for its pages until `with_pages` puts their images in its place. Nothing
is fetched, opened or drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tessera.documents import plan
from tessera.documents.kinds import kind_of
from tessera.documents.limits import PageLimits
from tessera.documents.page import PageError
from tessera.documents.pages import read_pages
from tessera.documents.plan import Budget
from tessera.errors import DocumentError, FetchError, ImageError
from tessera.messages import Image, Message
from tessera.server.errors import BadRequestError
from tessera.server.ocr_schemas import Document

if TYPE_CHECKING:
    from tessera.server.ocr import Given

KINDS = ("document_url", "file", "input_file")
MAX_NAME = 1024  # characters
URLS = ("document_url", "file_url", "file_data")
SOURCES = {**dict.fromkeys(URLS, "document_url"), "file_id": "file_id"}
NAMES = ("document_name", "filename", "file_name")
SILENT = ("type", "file", "cache_control", "detail")
SEVERAL = ("zip", "mail")
LOCKED = "{} is locked, and a request of this kind has no place for its password; send it without one."


@dataclass(frozen=True, kw_only=True)
class PagesOf(Image):
    """A document's pages, in the place where they belong; `where` names it in errors."""

    document: Document = field(compare=False)
    where: str = ""


def with_documents(messages: Sequence[Mapping[str, Any]], where: str) -> list[Mapping[str, Any]]:
    """Replace the document parts of messages, and of tools' outputs; raises BadRequestError that names the part."""
    found: list[Mapping[str, Any]] = []
    for index, message in enumerate(messages):
        new = message
        for name in ("content", "output"):
            parts = message.get(name)
            if isinstance(parts, list) and any(_kind(part) in KINDS for part in parts):
                place = f"{where}.{index}.{name}"
                new = {**new, name: [_read(part, f"{place}.{number}") for number, part in enumerate(parts)]}
        found.append(new)
    return found


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _read(part: Any, where: str) -> Any:
    if _kind(part) not in KINDS:
        return part
    inner = part.get("file")
    told = {name: value for name, value in part.items() if value is not None and name not in SILENT}
    if isinstance(inner, Mapping):
        told |= {name: value for name, value in inner.items() if value is not None}
    elif inner is not None:
        raise BadRequestError(f"{where}.file must be an object with file_id or file_data.", param=where)
    for name, value in told.items():
        if name not in SOURCES and name not in NAMES:
            raise BadRequestError(
                f"{where}.{name[:64]} is not known here; known are {', '.join((*SOURCES, 'filename'))}.", param=where
            )
        if not isinstance(value, str) or not value or (SOURCES.get(name) != "document_url" and len(value) > MAX_NAME):
            raise BadRequestError(f"{where}.{name} must be a text, of at most {MAX_NAME} characters for a name.",
                                  param=where)  # fmt: skip
    given = [name for name in told if name in SOURCES]
    if len(given) != 1:
        words = " and ".join(given) + " exclude each other" if given else f"no document is in {where}"
        raise BadRequestError(f"{words}; give one of {', '.join(SOURCES)}.", param=where)
    source = SOURCES[given[0]]
    shown = next((told[name] for name in NAMES if name in told), None)
    kind: Any = "file" if source == "file_id" else "document_url"
    document = Document(**{"type": kind, source: told[given[0]], "document_name": shown})
    return PagesOf(source="", document=document, where=where)


def documents_in(messages: Sequence[Message]) -> list[PagesOf]:
    return [part for message in messages for part in message.content if isinstance(part, PagesOf)]


def without_documents(messages: Sequence[Message]) -> list[Message]:
    """The messages, where nobody reads documents; raises BadRequestError if there are any."""
    if found := documents_in(messages):
        raise BadRequestError(
            f"{found[0].where} is a document, and only a server reads those; send images, or give the lines to "
            "/v1/batches.",
            param=found[0].where, code="unsupported",
        )  # fmt: skip
    return list(messages)


@dataclass(frozen=True)
class PageReader:
    """Puts documents' pages into messages; `opened` brings a document to the disk for a time."""

    opened: Callable[[Document], AbstractContextManager[Given]]
    budget: Budget
    limits: PageLimits
    max_images: int

    def with_pages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with each page as an image; raises TesseraError that names the part."""
        room = self.max_images - sum(not isinstance(part, PagesOf) for message in messages for part in message.images)
        if len(documents_in(messages)) > room:
            raise self._too_many(documents_in(messages)[-1].where)
        found: list[Message] = []
        for message in messages:
            parts: list[str | Image] = []
            for part in message.content:
                pages = [part] if not isinstance(part, PagesOf) else self._pages(part, room)
                room -= len(pages) if isinstance(part, PagesOf) else 0
                parts += pages
            found.append(replace(message, content=tuple(parts)))
        return found

    def _pages(self, part: PagesOf, room: int) -> list[str | Image]:
        try:
            with self.opened(part.document) as given:
                with given.path.open("rb") as file:
                    if kind_of(file) in SEVERAL:
                        raise DocumentError(f"{given.name} holds several documents; send each one alone.",
                                            code="unsupported")  # fmt: skip
                pages: list[str | Image] = []
                for page in islice(read_pages([given.path], limits=self.limits), room + 1):
                    if isinstance(page, PageError) and page.code == "too_many_pages":
                        raise self._too_many(part.where)
                    if isinstance(page, PageError):
                        locked = page.code == "password_required"
                        words = LOCKED if locked else page.message.replace(str(given.path), given.name)
                        raise DocumentError(words.format(given.name) if locked else words, code=page.code)
                    if len(pages) == room:
                        raise self._too_many(part.where)
                    ((shown, side),) = plan.views(page, "off", self.budget)
                    side = min(side, part.max_side or side)
                    pages.append(Image(page.image(side, crop=shown), max_side=part.max_side))
        except (DocumentError, FetchError, ImageError) as error:
            raise BadRequestError(
                f"{part.where}: {error}", param=part.where, code=error.code, status=error.http_status
            ) from error
        return pages

    def _too_many(self, where: str) -> BadRequestError:
        return BadRequestError(
            f"with the pages of {where} the request has more than {self.max_images} images, which is the limit of one "
            "(limit_mm_per_prompt); send fewer pages, or read the document with /v1/ocr or /v1/extractions.",
            param=where, code="too_many_pages",
        )  # fmt: skip
