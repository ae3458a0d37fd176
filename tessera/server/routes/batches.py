"""/v1/batches, as OpenAI defines it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute

from tessera.server.batch_schemas import BatchCreateRequest
from tessera.server.batches import Batches, Job
from tessera.server.documents import OCR
from tessera.server.errors import BadRequestError
from tessera.server.file_table import new_id
from tessera.server.files import FileStore
from tessera.server.handlers import Handlers
from tessera.server.lines import CHAT
from tessera.server.queries import Query
from tessera.server.routes.files import check_origin, in_thread, tenant_of
from tessera.server.wire import created_now

WINDOW_S = 24 * 3600
ENDPOINTS = (CHAT, OCR)
PIECE = 1 << 20


def add(app: FastAPI, handlers: Handlers) -> None:
    batches = handlers.batches

    @app.post("/v1/batches")
    async def create(body: BatchCreateRequest, request: Request) -> dict[str, Any]:
        body.check_extra_fields()
        return batch_object(await in_thread(_create, batches, body, tenant_of(request)))

    @app.get("/v1/batches")
    async def listed(request: Request) -> dict[str, Any]:
        return await in_thread(_list, batches, Query(request), tenant_of(request))

    @app.get("/v1/batches/{batch_id}")
    async def batch(batch_id: str, request: Request) -> dict[str, Any]:
        return batch_object(await in_thread(batches.get, batch_id, tenant_of(request)))

    router = APIRouter(route_class=APIRoute)  # no body, so no content type either

    @router.post("/v1/batches/{batch_id}/cancel")
    async def cancel(batch_id: str, request: Request) -> dict[str, Any]:
        check_origin(request, handlers.settings.allowed_origins)
        return batch_object(await in_thread(batches.cancel, batch_id, tenant_of(request)))

    app.include_router(router)


def _create(batches: Batches, body: BatchCreateRequest, tenant: str) -> Job:
    check_endpoint(body.endpoint)
    created = created_now()
    job = Job(
        id=new_id(), tenant=tenant, created=created, endpoint=body.endpoint, served=batches.settings.model,
        window=body.completion_window, expires=created + WINDOW_S, inputs=[body.input_file_id], metadata=body.metadata,
        output_age_s=None if body.output_expires_after is None else body.output_expires_after.seconds,
    )  # fmt: skip
    return batches.create(job, joined(batches.store, job.inputs, tenant, "input_file_id"))


def check_endpoint(endpoint: str) -> None:
    if endpoint not in ENDPOINTS:
        raise BadRequestError(
            f"endpoint is {endpoint[:60]!r}, which has no batches here; it must be one of {', '.join(ENDPOINTS)}.",
            param="endpoint",
        )


def joined(store: FileStore, ids: list[str], tenant: str, field: str) -> Callable[[Path], None]:
    """How a job's input is made of files: one is linked, so that it may be deleted meanwhile; several are copied."""
    for file_id in ids:
        row = store.get(file_id, tenant)
        if row.purpose != "batch":
            raise BadRequestError(
                f"the file {file_id} has the purpose {row.purpose}; upload the requests with purpose batch.",
                param=field,
            )
    paths = [store.path(file_id) for file_id in ids]

    def fill(target: Path) -> None:
        if len(paths) == 1:
            os.link(paths[0], target)
            return
        with target.open("wb") as out:
            for path in paths:
                with path.open("rb") as source:
                    data = b""
                    while piece := source.read(PIECE):
                        out.write(piece)
                        data = piece
                if not data.endswith(b"\n"):
                    out.write(b"\n")
            out.flush()
            os.fsync(out.fileno())

    return fill


def _list(batches: Batches, query: Query, tenant: str) -> dict[str, Any]:
    after, limit = query.text("after"), query.number("limit", 20, 1, 100)
    query.check()
    before = None if after is None else batches.get(after, tenant)
    jobs = list(islice(batches.select(tenant, after=before), limit + 1))
    data = [batch_object(job) for job in jobs[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(jobs) > limit, **ends}


def batch_object(job: Job) -> dict[str, Any]:
    usage: dict[str, Any] | None = job.usage and {
        **job.usage,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model,
        "errors": {"object": "list", "data": job.errors} if job.errors else None,
        "input_file_id": job.inputs[0] if job.inputs else "",
        "completion_window": job.window,
        "status": job.state,
        "output_file_id": job.output if job.ended else None,
        "error_file_id": job.error if job.ended else None,
        "created_at": job.created,
        "in_progress_at": job.times.get("in_progress"),
        "expires_at": job.expires,
        "finalizing_at": job.times.get("finalizing"),
        "completed_at": job.times.get("completed"),
        "failed_at": job.times.get("failed"),
        "expired_at": job.times.get("expired"),
        "cancelling_at": job.times.get("cancelling"),
        "cancelled_at": job.times.get("cancelled"),
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "usage": usage,
        "metadata": job.metadata,
    }
