"""/v1/files, as OpenAI and Mistral define it; one object has the fields of both.

Source of the shapes: both API references, and what their clients insist on.
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import FileResponse, Response

from tessera.server.errors import BadRequestError
from tessera.server.file_table import StoredFile, checked_age
from tessera.server.files import FileStore
from tessera.server.guards import UPLOAD_PATH
from tessera.server.handlers import Handlers
from tessera.server.multipart import Form, read_form
from tessera.server.queries import Query, escaped
from tessera.server.wire import created_now

Result = TypeVar("Result")
HOUR_S = 3600
CONTENT = "application/octet-stream"  # Mistral's clients take no other type
KINDS = {"batch": "batch_request", "ocr": "ocr_input"}  # Mistral's sample_type by purpose
PURPOSES = ("batch", "ocr", "user_data", "vision", "assistants")
UNUSABLE = {"fine-tune": "this server trains no models", "evals": "this server runs no evaluations"}
COLUMNS = {"purpose": "purpose", "sample_type": "kind", "source": "source", "mimetypes": "mimetype"}  # by parameter
FORM_FIELDS = {"purpose", "visibility", "expiry", "expires_after[anchor]", "expires_after[seconds]"}


def add(app: FastAPI, handlers: Handlers) -> None:
    store = handlers.files
    router = APIRouter(route_class=APIRoute)  # an upload is no JSON

    @router.post("/v1/files", include_in_schema=False)
    async def upload(request: Request) -> dict[str, Any]:
        check_origin(request, handlers.settings.allowed_origins)
        return file_object(await _upload(store, request))

    app.include_router(router)

    @app.get("/v1/files")
    async def files(request: Request) -> dict[str, Any]:
        return await in_thread(_list, store, Query(request), tenant_of(request))

    @app.get("/v1/files/{file_id}")
    async def file(file_id: str, request: Request) -> dict[str, Any]:
        return file_object(await in_thread(store.get, file_id, tenant_of(request))) | {"deleted": False}

    @app.delete("/v1/files/{file_id}")
    async def delete(file_id: str, request: Request) -> dict[str, Any]:
        await in_thread(store.delete, file_id, tenant_of(request))
        return {"id": file_id, "object": "file", "deleted": True}

    @app.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, request: Request) -> Response:
        row = await in_thread(store.get, file_id, tenant_of(request))
        return FileResponse(store.path(row.id), media_type=CONTENT, filename=row.name)

    @app.get("/v1/files/{file_id}/url")
    async def url(file_id: str, request: Request) -> dict[str, str]:
        query = Query(request)
        hours = query.number("expiry", 24, 1, 168)
        query.check()
        row = await in_thread(store.get, file_id, tenant_of(request))
        signed = store.sign(row.id, row.tenant, int(time.time()) + hours * HOUR_S)
        return {"url": f"{str(request.base_url).rstrip('/')}/v1/files/{row.id}/content?{signed}"}


def tenant_of(request: Request) -> str:
    """The API key's digest, which owns files and batches; without keys all are everybody's."""
    return str(request.state.tenant)


def signed_owner(store: FileStore, path: str, query: str) -> str | None:
    """The owner of a file whose content this path and query name, signed by `/url`; None for any other."""
    head, _, file_id = path.removesuffix("/content").rpartition("/")
    told = dict(parse_qsl(query)) if head == UPLOAD_PATH and path.endswith("/content") and len(query) < 512 else {}
    if set(told) != {"until", "signature"}:
        return None
    return store.tenant_signed(file_id, told["until"], told["signature"])


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Work with the disk, away from the event loop."""
    return await asyncio.to_thread(function, *arguments)


def check_origin(request: Request, allowed: tuple[str, ...]) -> None:
    """Refuse another site's page: forms cross origins without asking."""
    origin = request.headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise BadRequestError(
            "a page of another origin sent this form; add its origin to allowed_origins.", code="other_origin",
            status=403,
        )  # fmt: skip


async def _upload(store: FileStore, request: Request) -> StoredFile:
    with ExitStack() as stack:
        upload = await in_thread(stack.enter_context, store.upload())

        async def write(data: bytes) -> None:
            await in_thread(upload.write, data)

        form = await read_form(request.headers.get("content-type", ""), request.stream(), write)
        row = replace(_row(store, form), id=upload.id, tenant=tenant_of(request), size=upload.size)
        if row.purpose == "batch":
            row = replace(row, lines=upload.num_lines)
        return await in_thread(store.keep, upload, row)


def _row(store: FileStore, form: Form) -> StoredFile:
    """What the form's fields say of the file; raises BadRequestError for what they may not."""
    told = form.fields
    for name in told:
        if name not in FORM_FIELDS:
            raise BadRequestError(f"the field {name[:60]!r} is not known here; leave it out.", param=name[:60])
    if told.get("expiry"):
        raise BadRequestError(
            "the field expiry is not supported, since its unit is not documented; use expires_after[seconds].",
            param="expiry",
        )
    if form.file_name is None:
        raise BadRequestError("the form has no part named file, which holds the file.", param="file")
    purpose, visibility = told.get("purpose", ""), told.get("visibility", "workspace")
    if purpose in UNUSABLE:
        raise BadRequestError(f"purpose is {purpose}, and {UNUSABLE[purpose]}.", param="purpose")
    if purpose not in PURPOSES:
        raise BadRequestError(f"purpose is {purpose[:40]!r}; it must be one of {', '.join(PURPOSES)}.", param="purpose")
    if visibility not in ("workspace", "user"):
        raise BadRequestError(
            f"visibility is {visibility[:40]!r}; files are seen by the holders of one key: workspace or user.",
            param="visibility",
        )
    created = created_now()
    return StoredFile(
        id="", tenant="", name=form.file_name, purpose=purpose, size=0, created=created,
        expires=store.expiry(created, _age(told)), kind=KINDS.get(purpose, "user_data"), source="upload",
        mimetype=mimetypes.guess_type(form.file_name)[0], visibility=visibility,
    )  # fmt: skip


def _age(told: Mapping[str, str]) -> int | None:
    anchor, seconds = told.get("expires_after[anchor]"), told.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise BadRequestError("expires_after[anchor] must be created_at.", param="expires_after[anchor]")
    if seconds is None or not seconds.isdecimal() or len(seconds) > 12:
        raise BadRequestError("expires_after[seconds] must be a whole number.", param="expires_after[seconds]")
    return checked_age(int(seconds), "expires_after[seconds]")


def _list(store: FileStore, query: Query, tenant: str) -> dict[str, Any]:
    """A page of the list: OpenAI's by `after` and `limit`, or Mistral's by `page` and `page_size`."""
    where, values = ["tenant = ?"], [tenant]
    for name, column in (
        ("purpose", "purpose"),
        ("sample_type", "kind"),
        ("source", "source"),
        ("mimetypes", "mimetype"),
    ):
        if given := query.several(name):
            where.append(f"{column} IN ({','.join('?' * len(given))})")
            values += given
    if search := query.text("search"):
        where.append("name LIKE ? ESCAPE '\\'")
        values.append(f"%{escaped(search)}%")
    query.flag("include_total", default=True)
    paging = query.paging(most=10_000, default=10_000)
    query.check()
    total = store.count(" AND ".join(where), values)
    if paging.after is not None:
        row = store.get(paging.after, tenant)
        sign = ">" if paging.ascending else "<"
        where.append(f"(created, id) {sign} (?, ?)")
        values += [str(row.created), row.id]
    order = "created ASC, id ASC" if paging.ascending else "created DESC, id DESC"
    rows = store.select(
        " AND ".join(where), values, order=order, limit=paging.limit + 1, offset=paging.offset
    )  # fmt: skip
    return paging.listed([file_object(row) for row in rows], total)


def file_object(row: StoredFile) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": row.created,
        "expires_at": row.expires,
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
        "sample_type": row.kind,
        "source": row.source,
        "num_lines": row.lines,
        "mimetype": row.mimetype,
        "signature": None,
        "visibility": row.visibility,
    }
