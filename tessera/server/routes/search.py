"""/v1/search: the archive that the setting `index` names: queries, pages with what is hit, thumbnails and images."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.responses import Response

from tessera.documents.limits import PageLimits
from tessera.errors import DocumentError, EngineBusyError, UsageError
from tessera.search.pages import open_page, show_page
from tessera.search.searcher import MAX_LIMIT, Searcher
from tessera.search.shape import found_object
from tessera.search.store import in_words
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers
from tessera.server.queries import Query
from tessera.server.routes.files import in_thread

Result = TypeVar("Result")
MAX_SEARCHING = 4  # questions and pages at once
WAIT_S = 10.0  # for a place among them
SIDE, LEAST_SIDE, MOST_SIDE = 1400, 64, 2400  # pixels of a page's longer edge
JPEG = 80
KEPT = {"cache-control": "private, no-cache"}


class Archive:
    """Opens the index anew for each question, since it may be brought up to date or replaced meanwhile."""

    def __init__(self, index: Path | None) -> None:
        self._index = index
        self._places = threading.BoundedSemaphore(MAX_SEARCHING)

    @contextmanager
    def opened(self) -> Iterator[Searcher]:
        """Yield a searcher; raises BadRequestError without an index, and EngineBusyError with too many questions."""
        if self._index is None:
            raise BadRequestError(
                "this server has no index; start it with --index FOLDER, which `tessera index FOLDER` makes.",
                code="no_index", status=404,
            )  # fmt: skip
        if not self._places.acquire(timeout=WAIT_S):
            raise EngineBusyError(f"{MAX_SEARCHING} searches are under way; ask again later.")
        try:
            with self._in_words(), Searcher(self._index) as searcher:
                yield searcher
        finally:
            self._places.release()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except BadRequestError:
            raise
        except UsageError as error:
            # What is wrong with the index is the operator's business; what is wrong with a query has its parameter.
            if error.param in ("q", "limit", "offset"):
                raise BadRequestError(str(error), param=error.param) from error
            raise BadRequestError("the index cannot be read now; ask whoever runs this server.", status=503) from error

    def ask(self, work: Callable[[Searcher], Result]) -> Result:
        with self.opened() as searcher, in_words(searcher.file):
            return work(searcher)


def add(app: FastAPI, handlers: Handlers) -> None:
    archive = Archive(handlers.settings.index)
    limits = PageLimits(max_pixels=handlers.settings.max_image_pixels)

    @app.get("/v1/search")
    async def search(request: Request) -> dict[str, Any]:
        query = Query(request)
        text = query.text("q") or ""
        limit, offset = query.number("limit", 20, 1, MAX_LIMIT), query.number("offset", 0, 0, 600)
        query.check()
        found = await in_thread(archive.ask, lambda searcher: searcher.search(text, limit=limit, offset=offset))
        return {"object": "list", **found_object(found, text)}

    @app.get("/v1/search/about")
    async def about(request: Request) -> dict[str, Any]:
        Query(request).check()
        return await in_thread(archive.ask, lambda searcher: {**searcher.counts(), "fields": searcher.names()})

    @app.get("/v1/search/pages/{page}")
    async def shown(page: str, request: Request) -> dict[str, Any]:
        query = Query(request)
        text = query.text("q") or ""
        query.check()
        found = await in_thread(archive.ask, lambda searcher: show_page(searcher, _number(page), text))
        if found is None:
            raise _no_page(page)
        boxes = [[round(side, 5) for side in (box.left, box.top, box.right, box.bottom)] for box in found.boxes]
        return {**asdict(found), "boxes": boxes}

    _add_images(app, archive, limits)


def _add_images(app: FastAPI, archive: Archive, limits: PageLimits) -> None:
    @app.get("/v1/search/pages/{page}/thumbnail")
    async def thumbnail(page: str, request: Request) -> Response:
        Query(request).check()
        ask = "SELECT webp FROM thumbnails WHERE page = ?"
        row = await in_thread(
            archive.ask, lambda searcher: searcher.connection.execute(ask, (_number(page),)).fetchone()
        )
        if row is None:
            raise _no_page(page)
        return Response(row[0], media_type="image/webp", headers=KEPT)

    @app.get("/v1/search/pages/{page}/image")
    async def image(page: str, request: Request) -> Response:
        query = Query(request)
        side = query.number("side", SIDE, LEAST_SIDE, MOST_SIDE)
        query.check()
        drawn = await in_thread(archive.ask, lambda searcher: _drawn(searcher, _number(page), side, limits))
        if drawn is None:
            raise _no_page(page)
        return Response(drawn, media_type="image/jpeg", headers=KEPT)


def _drawn(searcher: Searcher, number: int, side: int, limits: PageLimits) -> bytes | None:
    try:
        page = open_page(searcher, number, limits)
    except DocumentError as error:
        # The sentence may have the server's own path in it.
        words = str(error).replace(f"{searcher.root}/", "")
        raise BadRequestError(words, code=str(error.code), status=409) from error
    if page is None:
        return None
    file = io.BytesIO()
    page.image(side).convert("RGB").save(file, "JPEG", quality=JPEG)
    return file.getvalue()


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise _no_page(text)
    return int(text)


def _no_page(page: str) -> BadRequestError:
    return BadRequestError(
        f"the index has no page {page[:40]!r}, or no image of it.", code="page_not_found", status=404
    )
