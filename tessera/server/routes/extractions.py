"""/v1/extractions: uploaded documents become rows under a schema or preset; with the pages and tables of the rows."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, Response

import tessera
from tessera.documents.page import PageError
from tessera.documents.pages import read_pages
from tessera.documents.presets import Preset, every
from tessera.documents.review.embedded import exact
from tessera.documents.sources import distinct
from tessera.documents.tables import Layout, check_format, write_table
from tessera.errors import DocumentError, EngineBusyError, UsageError
from tessera.server import extraction_rows as rows
from tessera.server.batches import Batches, Job
from tessera.server.errors import BadRequestError
from tessera.server.extraction_schemas import Correction, ExtractionRequest, TableRequest
from tessera.server.extractions import adapter_digest, job_task, limits_of, options_of, preset_of
from tessera.server.file_table import DAY_S, FileMissingError, new_id
from tessera.server.handlers import Handlers
from tessera.server.queries import Query
from tessera.server.routes.files import check_origin, in_thread, tenant_of
from tessera.server.sealing import opened, sealed
from tessera.server.wire import created_now

Result = TypeVar("Result")
KIND = "extraction"
MAX_WORKING = 4  # pages that are drawn, and tables that are written, at once
MAX_ROWS = 200  # of one answer
SIDE, LEAST_SIDE, MOST_SIDE = 1400, 64, 2400  # pixels of a page's longer edge
JPEG = 80
TYPES = {
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "csv": "text/csv",
    "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet",
}  # fmt: skip


class _Places:
    """Bounds the work that requests do in threads of their own."""

    def __init__(self, most: int) -> None:
        self._places = threading.BoundedSemaphore(most)

    @contextmanager
    def one(self) -> Iterator[None]:
        if not self._places.acquire(timeout=10):
            raise EngineBusyError(f"{MAX_WORKING} pages and tables are being made; ask again later.")
        try:
            yield
        finally:
            self._places.release()


def add(app: FastAPI, handlers: Handlers) -> None:
    _add_jobs(app, handlers)
    _add_results(app, handlers.batches)

    @app.get("/v1/presets")
    async def presets() -> dict[str, Any]:
        found = await in_thread(lambda: [each for each in every() if isinstance(each, Preset)])
        return {"object": "list", "data": [_preset_object(each) for each in found]}


def _add_jobs(app: FastAPI, handlers: Handlers) -> None:
    batches = handlers.batches

    @app.post("/v1/extractions")
    async def create(body: ExtractionRequest, request: Request) -> dict[str, Any]:
        body.check_extra_fields()
        handlers.check_model(body.model)
        return extraction_object(await in_thread(_create, batches, body, tenant_of(request)))

    @app.get("/v1/extractions")
    async def listed(request: Request) -> dict[str, Any]:
        query = Query(request)
        limit = query.number("limit", 20, 1, 100)
        query.check()
        jobs = await in_thread(lambda: list(islice(batches.select(tenant_of(request), KIND), limit + 1)))
        data = [extraction_object(job) for job in jobs[:limit]]
        return {"object": "list", "data": data, "has_more": len(jobs) > limit}

    @app.get("/v1/extractions/{extraction_id}")
    async def extraction(extraction_id: str, request: Request) -> dict[str, Any]:
        job = await in_thread(batches.get, extraction_id, tenant_of(request), KIND)
        used = batches.calibration
        return extraction_object(job) | {"metrics": None if used is None else dict(used.report) or None}

    @app.delete("/v1/extractions/{extraction_id}")
    async def delete(extraction_id: str, request: Request) -> dict[str, Any]:
        await in_thread(batches.delete, extraction_id, tenant_of(request), KIND)
        return {"id": extraction_id, "object": KIND, "deleted": True}

    router = APIRouter(route_class=APIRoute)  # no body, so no content type either

    @router.post("/v1/extractions/{extraction_id}/cancel")
    async def cancel(extraction_id: str, request: Request) -> dict[str, Any]:
        check_origin(request, handlers.settings.allowed_origins)
        return extraction_object(await in_thread(batches.cancel, extraction_id, tenant_of(request), KIND))

    app.include_router(router)


def _add_results(app: FastAPI, batches: Batches) -> None:
    places = _Places(MAX_WORKING)

    @app.get("/v1/extractions/{extraction_id}/records")
    async def records(extraction_id: str, request: Request) -> Response:
        query = Query(request)
        after, limit = query.number("after", 0, 0, 2**53), query.number("limit", 100, 1, MAX_ROWS)
        query.check()

        def found() -> dict[str, Any]:
            job = batches.get(extraction_id, tenant_of(request), KIND)
            data, end, more = rows.read(rows.rows_file(batches.folder(job)), after, limit)
            return {"object": "list", "data": exact(data), "next": end, "has_more": more}

        return JSONResponse(await in_thread(found))

    @app.get("/v1/extractions/{extraction_id}/page")
    async def page(extraction_id: str, request: Request) -> Response:
        query = Query(request)
        document, number = query.text("document") or "", query.number("number", 1, 1, 10**6)
        side = query.number("side", SIDE, LEAST_SIDE, MOST_SIDE)
        query.check()

        def drawn() -> bytes:
            job = batches.get(extraction_id, tenant_of(request), KIND)
            with places.one():
                return _page(batches, job, document, number, side)

        return Response(await in_thread(drawn), media_type="image/jpeg", headers={"cache-control": "private, no-cache"})

    @app.get("/v1/extractions/{extraction_id}/table", response_class=FileResponse)
    async def table(extraction_id: str, request: Request) -> Response:
        query = Query(request)
        wanted = query.choice("format", tuple(TYPES), "xlsx")
        query.check()
        return await in_thread(_table, batches, places, (extraction_id, tenant_of(request)), wanted, [])

    @app.post("/v1/extractions/{extraction_id}/table", response_class=FileResponse)
    async def corrected(extraction_id: str, body: TableRequest, request: Request) -> Response:
        body.check_extra_fields()
        which = (extraction_id, tenant_of(request))
        return await in_thread(_table, batches, places, which, body.format, body.corrections)


def _create(batches: Batches, body: ExtractionRequest, tenant: str) -> Job:
    if (body.preset is None) == (body.schema_ is None):
        raise BadRequestError("give either preset, a name of /v1/presets, or schema, a JSON schema.", param="preset")
    ids = list(dict.fromkeys(body.input_file_ids))
    taken: set[str] = set()  # a folder's files may be called alike
    names = {file_id: distinct(batches.store.get(file_id, tenant).name, taken) for file_id in ids}
    task = job_task(body.preset, body.schema_, body.options, names)
    for file_id in body.passwords or {}:
        if file_id not in names:
            raise BadRequestError(
                f"passwords names {file_id[:60]!r}, which is none of input_file_ids.", param="passwords"
            )
    if body.passwords:
        task["locked"] = sealed(batches.store.secret, body.passwords)
    task["adapter"] = adapter_digest(batches, body.model)
    try:
        preset_of(task)
        options_of(task, batches.backend, batches.settings)
    except UsageError as error:
        field = error.param or ("preset" if body.schema_ is None else "schema")
        raise BadRequestError(str(error), param=field) from error
    created = created_now()
    job = Job(
        id=new_id(), tenant=tenant, created=created, endpoint="/v1/extractions", served=batches.settings.model,
        window="", expires=created + batches.settings.files_max_days * DAY_S, inputs=ids,
        model=body.model, metadata=body.metadata, kind=KIND, task=task,
    )  # fmt: skip
    return batches.create(job, lambda path: None)


def _page(batches: Batches, job: Job, document: str, number: int, side: int) -> bytes:
    """A page as JPEG; raises DocumentError if it cannot be read, BadRequestError if it or its file is not there."""
    names = sorted(job.task["names"].items(), key=lambda each: len(each[1]), reverse=True)
    found = next((each for each in names if document == each[1] or document.startswith(each[1] + "/")), None)
    if found is not None:
        file_id, name = found
        path = str(_path(batches, job, file_id))
        wanted = path + document[len(name) :]
        passwords = opened(batches.store.secret, job.task.get("locked")).get(file_id)
        pages = read_pages([path], pages=str(number), passwords=(passwords,) if passwords else (),
                           limits=limits_of(batches.settings))  # fmt: skip
        with closing(pages):  # type: ignore[type-var]
            for page in pages:
                if page.document != wanted:
                    continue
                if isinstance(page, PageError):
                    raise DocumentError(page.message.replace(path, name), code=page.code)
                file = io.BytesIO()
                page.image(side).convert("RGB").save(file, "JPEG", quality=JPEG)
                return file.getvalue()
    raise BadRequestError(f"the extraction has no page {number} of {document[:80]!r}.", param="document",
                          code="page_not_found", status=404)  # fmt: skip


def _path(batches: Batches, job: Job, file_id: str) -> Path:
    """Where a job's file lies; raises BadRequestError if it was deleted meanwhile."""
    try:
        path = batches.store.path(batches.store.get(file_id, job.tenant).id)
    except FileMissingError:
        path = None
    if path is None or not path.is_file():
        raise BadRequestError(
            f"the file {job.task['names'][file_id][:80]!r} was deleted, or removed at its age, so its pages cannot be "
            "shown; the rows and tables stay. Upload it again for a new extraction to see them.",
            param="document", code="file_gone", status=410,
        )  # fmt: skip
    return path


def _table(
    batches: Batches, places: _Places, which: tuple[str, str], wanted: str, corrections: list[Correction]
) -> Response:
    """The rows that are there as a table, with what a person corrected."""
    job = batches.get(*which, KIND)
    preset = preset_of(job.task)
    path = batches.folder(job) / f"table-{new_id()}.{wanted}"
    check_format(path)
    about = {
        "model": job.served, "schema": preset.name, "state": job.state, "documents": job.task["documents"],
        "corrected": len(corrections), "tessera": tessera.__version__,
    }  # fmt: skip
    layout = Layout(schema=preset.schema, about=about)
    try:
        with places.one():
            write_table(path, rows.records(rows.rows_file(batches.folder(job)), corrections), layout)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequestError(
            "a corrected value does not fit the schema, so the table cannot be written; look at dates and numbers.",
            param="corrections",
        ) from error
    return FileResponse(
        path, media_type=TYPES[wanted], filename=f"{preset.name}.{wanted}",
        background=BackgroundTask(_removed(path)),
    )  # fmt: skip


def _removed(path: Path) -> Callable[[], None]:
    return lambda: path.unlink(missing_ok=True)


def _preset_object(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "object": "preset",
        "title": preset.title,
        "schema": None if preset.schema.plain else preset.schema.given,
        "temperature": preset.temperature,
        "checks": list(preset.checks),
        "images": preset.images,
    }


def extraction_object(job: Job) -> dict[str, Any]:
    """What a client sees of a job."""
    task = job.task
    return {
        "id": job.id,
        "object": KIND,
        "status": job.state,
        "model": job.model,
        "preset": task["preset"],
        "schema": task["schema"] if task["preset"] is None else dict(preset_of(task).schema.given),
        "options": task["options"],
        "input_files": [
            {"id": each, "name": task["names"][each], "password": each in (task.get("locked") or {})}
            for each in job.inputs
        ],
        "documents": task["documents"],
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "errors": {"object": "list", "data": job.errors} if job.errors else None,
        "created_at": job.created,
        "expires_at": job.expires,
        "ended_at": job.times.get(job.state) if job.ended else None,
        "metadata": job.metadata,
    }
