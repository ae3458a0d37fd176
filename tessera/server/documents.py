"""Documents that requests name: an uploaded file, a URL through the guard of `fetch`, or data; each on the disk.

Only here do `/v1/ocr` and its batches differ from files on one's own machine.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tessera.chat import ChatModel
from tessera.documents.api import budget_for
from tessera.documents.journal import Item
from tessera.documents.kinds import kind_of
from tessera.documents.limits import PageLimits
from tessera.documents.plan import Budget
from tessera.documents.runner import Done
from tessera.errors import DiskFullError, DocumentError, EngineBusyError, TesseraError
from tessera.fetch import Stop
from tessera.machine import disk_room
from tessera.messages import Message
from tessera.server.backend import Backend
from tessera.server.document_parts import PageReader
from tessera.server.errors import BadRequestError
from tessera.server.files import FileStore
from tessera.server.jobs import item_data, number_of
from tessera.server.lines import Line, LineError, Rows, read_line
from tessera.server.names import Names
from tessera.server.ocr import Given, OcrReader
from tessera.server.ocr_fields import check
from tessera.server.ocr_schemas import Document, ImageUrl, OcrRequest
from tessera.server.served_model import JobStoppedError, ServedModel
from tessera.server.settings import Settings
from tessera.server.validation_words import describe_mistake
from tessera.sources import ImageLimits, is_data_url, is_url, read

OCR = "/v1/ocr"
MAX_READING = 8  # documents at once
FIELDS = {"document_url": "document_url", "image_url": "image_url", "file": "file_id"}  # of a document, by its type
Result = TypeVar("Result")


class DocumentThreads:
    """Threads in which documents are read that a client waits for, MAX_READING at once; used in the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_READING, thread_name_prefix="tessera-documents")
        self._reading = 0

    def start(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Begin work in a thread; raises EngineBusyError if all are taken."""
        if self._reading >= MAX_READING:
            raise EngineBusyError(
                f"{self._reading} documents are being read (at most {MAX_READING}); send it again later."
            )
        self._reading += 1
        started = asyncio.get_running_loop().run_in_executor(self._threads, work)
        started.add_done_callback(self._ended)
        return started

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._reading -= 1
        if not work.cancelled():
            work.exception()  # whoever asked may have left


@dataclass(frozen=True)
class OcrService:
    """Answers OCR requests of any key; blocks, so it is called from threads."""

    store: FileStore
    backend: Backend
    settings: Settings
    names: Names
    threads: DocumentThreads = field(default_factory=DocumentThreads)

    def answer(self, body: OcrRequest, tenant: str, model: ChatModel, stop: Stop | None = None) -> dict[str, Any]:
        """Read the document and return the response; raises TesseraError."""
        body.check_extra_fields()
        self.names.adapter(body.model)
        check(body)
        reader = OcrReader(model, self._budget, self._page_limits, self.settings.limit_mm_per_prompt)
        with self.opened(body.document, tenant, stop) as given:
            with given.path.open("rb") as file:
                kind = kind_of(file)
            if kind in ("zip", "mail"):
                raise DocumentError(f"{given.name} holds several documents; send each one alone.", code="unsupported")
            return reader.answer(body, given, self.names.stated(body.model))

    def with_pages(self, messages: Sequence[Message], tenant: str, stop: Stop | None = None) -> list[Message]:
        """A chat's messages with the pages of its documents as images; raises TesseraError that names the part."""
        reader = PageReader(
            lambda document: self.opened(document, tenant, stop), self._budget, self._page_limits,
            self.settings.limit_mm_per_prompt,
        )  # fmt: skip
        return reader.with_pages(messages)

    @contextmanager
    def opened(self, document: Document, tenant: str, stop: Stop | None) -> Iterator[Given]:
        """Bring a document to the disk for a time: a key's file as it is, another to a file of its own."""
        source_field = FIELDS[document.type]
        for name in ("document_url", "image_url", "file_id"):
            if name != source_field and getattr(document, name) is not None:
                raise BadRequestError(f"document.{name} cannot be combined with the type {document.type}.",
                                      param=f"document.{name}")  # fmt: skip
        source = getattr(document, source_field)
        source = source.url if isinstance(source, ImageUrl) else source
        if not source:
            raise BadRequestError(f"document.{source_field} is required with the type {document.type}.",
                                  param=f"document.{source_field}")  # fmt: skip
        if document.type == "file":
            row = self.store.get(source, tenant)
            yield Given(self.store.path(row.id), row.name, row.size)
            return
        if not (is_data_url(source) or is_url(source)):
            raise BadRequestError(
                f"document.{source_field} must be an http(s) URL or a data URL; upload the file for anything else.",
                param=f"document.{source_field}",
            )
        head = source.partition(",")[0]
        if is_data_url(source) and not head.lower().endswith(";base64"):
            raise DocumentError(
                f"the data URL begins with {head[:40]!r}; it must be data:application/pdf;base64,DATA, or that of an "
                "image or an office document.",
                code="unsupported",
            )
        name, data = read(source, self._limits, stop)
        name = (document.document_name or "").rpartition("/")[2] or ("the document" if is_data_url(source) else name)
        with tempfile.NamedTemporaryFile(prefix="tessera-ocr-") as file:
            with disk_room(Path(file.name).parent):
                file.write(data)
                file.flush()
            yield Given(Path(file.name), name, len(data))

    @property
    def _budget(self) -> Budget:
        return budget_for(self.backend.vision, self.backend.config.max_model_len)

    @property
    def _page_limits(self) -> PageLimits:
        return PageLimits(
            max_pages=self.settings.max_ocr_pages, max_bytes=self.settings.max_ocr_bytes,
            max_pixels=self.settings.max_image_pixels,
        )  # fmt: skip

    @property
    def _limits(self) -> ImageLimits:
        settings = self.settings
        return ImageLimits(
            max_bytes=settings.max_ocr_bytes, fetch_timeout_s=settings.fetch_timeout_s,
            allow_private_addresses=settings.allow_private_addresses, domains=settings.allowed_media_domains,
            proxy=settings.image_proxy, local_files=None,
        )  # fmt: skip


@dataclass(frozen=True)
class OcrLines:
    """Answers the lines of a batch for /v1/ocr, one after the other; a document's pages are read at once."""

    service: OcrService
    source: Path
    rows: Rows
    tenant: str

    def done(self, item: Item, model: ServedModel) -> Done:
        """The line's row; raises JobStoppedError if it was not finished."""
        number = number_of(item.payload)
        try:
            line = read_line(item_data(self.source, item), number, OCR)
        except LineError as error:
            return Done(self.rows.never_asked(number, error.custom_id, error), failed=True)
        if item.died:
            died = DocumentError("the server died while it read this document.", code="worker_died")
            return Done(self.rows.never_asked(number, line.custom_id, died), failed=True)
        try:
            body = _body(line)
            model.adapter = self.service.names.adapter(body.model)
            told = self.service.answer(body, self.tenant, model)
        except (JobStoppedError, DiskFullError):
            raise
        except TesseraError as error:
            return Done(self.rows.refused(line, error), failed=True)
        return Done(self.rows.replied(line, told))


def _body(line: Line) -> OcrRequest:
    try:
        return OcrRequest.model_validate(line.body)
    except ValidationError as error:
        path, words = describe_mistake(error.errors(include_url=False))
        raise BadRequestError(f"{path or 'the body'} {words}.", param=path or None) from error
