"""/v1/search: the archive that the setting `index` names: queries, pages with what is hit, thumbnails and images."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.responses import Response

from tessera.documents.api import budget_for
from tessera.documents.limits import PageLimits
from tessera.documents.plan import Budget
from tessera.errors import DocumentError, EngineBusyError, FileBusyError, UsageError
from tessera.fetch import Stop
from tessera.search.assisted import search_assisted
from tessera.search.found import Found
from tessera.search.pages import open_page, show_page
from tessera.search.searcher import MAX_LIMIT, Searcher
from tessera.search.shape import found_object
from tessera.search.store import in_words
from tessera.search.vectors import maker_of_vectors
from tessera.server.backend import LocalBackend
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers, unless_left
from tessera.server.queries import Query
from tessera.server.routes.files import in_thread
from tessera.server.served_model import JobStoppedError, ServedModel

Result = TypeVar("Result")
MAX_SEARCHING = 4  # questions and pages at once
WAIT_S = 10.0  # for a place among them
MAX_ASKING = 2  # questions at once that ask the model
ASKING_S = 60.0  # of the model's time for one
SIDE, LEAST_SIDE, MOST_SIDE = 1400, 64, 2400  # pixels of a page's longer edge
JPEG = 80
KEPT = {"cache-control": "private, no-cache"}


class Archive:
    """Opens the index anew for each question, since it may be brought up to date or replaced meanwhile."""

    def __init__(self, index: Path | None) -> None:
        self._index = index
        self._places = threading.BoundedSemaphore(MAX_SEARCHING)
        self._asking = threading.BoundedSemaphore(MAX_ASKING)

    @contextmanager
    def opened(self, *, asks_model: bool = False) -> Iterator[Searcher]:
        """Yield a searcher; raises BadRequestError without an index, and EngineBusyError with too many questions."""
        if self._index is None:
            raise BadRequestError(
                "this server has no index; start it with --index FOLDER, which `tessera index FOLDER` makes.",
                code="no_index", status=404,
            )  # fmt: skip
        # One that asks the model holds its place for long, and none for the pages' images.
        places, most, wait = (self._asking, MAX_ASKING, 0.0) if asks_model else (self._places, MAX_SEARCHING, WAIT_S)
        if not places.acquire(timeout=wait):
            raise EngineBusyError(f"{most} {'such ' if asks_model else ''}searches are under way; ask again later.")
        try:
            with self._in_words(), Searcher(self._index) as searcher:
                yield searcher
        finally:
            places.release()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except BadRequestError:
            raise
        except FileBusyError as error:  # whose sentence has the index's path in it
            raise EngineBusyError("another process holds the index; ask again later.") from error
        except UsageError as error:
            # What is wrong with the index is the operator's business; what is wrong with a query has its parameter.
            if error.param in ("q", "limit", "offset", "vectors"):
                raise BadRequestError(str(error), param=error.param) from error
            raise BadRequestError("the index cannot be read now; ask whoever runs this server.", status=503) from error

    def ask(self, work: Callable[[Searcher], Result]) -> Result:
        with self.opened() as searcher, in_words(searcher.file):
            return work(searcher)

    def ask_assisted(self, model: ServedModel, budget: Budget, text: str, given: Mapping[str, Any]) -> Found:
        """Search with the model's help; if that takes too long, without. `given` is of `search_assisted`."""
        with self.opened(asks_model=True) as searcher, in_words(searcher.file):
            try:
                return search_assisted(searcher, text, model, budget, **given)
            except JobStoppedError:
                found = searcher.search(text, limit=given["limit"], offset=given["offset"])
                late = f"the model did not judge the pages within {ASKING_S:.0f} seconds; they are ordered by words"
                return replace(found, notes=(*found.notes, late))


def add(app: FastAPI, handlers: Handlers) -> None:
    archive = Archive(handlers.settings.index)
    limits = PageLimits(max_pixels=handlers.settings.max_image_pixels)

    @app.get("/v1/search")
    async def search(request: Request) -> dict[str, Any]:
        query = Query(request)
        text = query.text("q") or ""
        limit, offset = query.number("limit", 20, 1, MAX_LIMIT), query.number("offset", 0, 0, 600)
        rerank, vectors = (query.flag(name, default=False) for name in ("rerank", "vectors"))
        query.check()
        if rerank or vectors:
            judged = handlers.settings.max_reranked if rerank else 0
            given = {"limit": limit, "offset": offset, "vectors": vectors, "judged": judged}
            found = await _assisted(archive, handlers, request, text, given)
        else:
            found = await in_thread(archive.ask, lambda searcher: searcher.search(text, limit=limit, offset=offset))
        return {"object": "list", **found_object(found, text)}

    @app.get("/v1/search/about")
    async def about(request: Request) -> dict[str, Any]:
        Query(request).check()
        told = await in_thread(archive.ask, lambda searcher: _about(searcher, handlers))
        return {**told, "max_reranked": handlers.settings.max_reranked}

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


def _about(searcher: Searcher, handlers: Handlers) -> dict[str, Any]:
    backend, maker = handlers.backend, maker_of_vectors(searcher)
    has_vectors = maker is not None and isinstance(backend, LocalBackend) and maker == backend.llm.fingerprint
    return {**searcher.counts(), "fields": searcher.names(), "vectors": has_vectors}


async def _assisted(
    archive: Archive, handlers: Handlers, request: Request, text: str, given: Mapping[str, Any]
) -> Found:
    """Search with the model's help, for as long as the client stays and the time lasts."""
    backend = handlers.backend
    if not handlers.settings.max_reranked:
        raise BadRequestError(
            "searches do not ask the model of this server (max_reranked is 0); leave rerank and vectors out.",
            param="rerank" if given["judged"] or not given["vectors"] else "vectors",
        )
    stop, ends_at = Stop(), time.monotonic() + ASKING_S
    model = ServedModel(
        backend, asyncio.get_running_loop(), handlers.tenant_of(request),
        lambda: stop.is_set or time.monotonic() > ends_at,
    )  # fmt: skip
    budget = budget_for(backend.vision, backend.config.max_model_len)
    work = asyncio.ensure_future(in_thread(archive.ask_assisted, model, budget, text, given))
    try:
        return await unless_left(request, asyncio.shield(work))
    finally:
        stop.set()


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
