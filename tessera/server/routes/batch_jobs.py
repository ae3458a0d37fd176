"""/v1/batch/jobs, as Mistral defines it, over the same jobs as /v1/batches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute

from tessera.server.batch_schemas import BatchJobRequest, InlineRequest
from tessera.server.batches import Batches, Job
from tessera.server.errors import BadRequestError
from tessera.server.file_table import new_id
from tessera.server.handlers import Handlers
from tessera.server.queries import Query
from tessera.server.routes.batches import check_endpoint, joined
from tessera.server.routes.files import check_origin, in_thread, tenant_of
from tessera.server.wire import created_now

HOUR_S = 3600
STATES = {
    "validating": "QUEUED", "in_progress": "RUNNING", "finalizing": "RUNNING", "completed": "SUCCESS",
    "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelling": "CANCELLATION_REQUESTED",
    "cancelled": "CANCELLED",
}  # fmt: skip
MAX_INLINE_BYTES = 64_000_000  # of outputs that come with the job itself


def add(app: FastAPI, handlers: Handlers) -> None:
    batches = handlers.batches

    @app.post("/v1/batch/jobs")
    async def create(body: BatchJobRequest, request: Request) -> dict[str, Any]:
        body.check_extra_fields()
        handlers.check_model(body.model)
        return job_object(await in_thread(_create, batches, body, tenant_of(request)))

    @app.get("/v1/batch/jobs")
    async def listed(request: Request) -> dict[str, Any]:
        return await in_thread(_list, batches, Query(request), tenant_of(request))

    @app.get("/v1/batch/jobs/{job_id}")
    async def job(job_id: str, request: Request) -> dict[str, Any]:
        query = Query(request)
        inline = query.flag("inline", default=False)
        query.check()
        found = await in_thread(batches.get, job_id, tenant_of(request))
        outputs = await in_thread(_outputs, batches, found) if inline and found.ended else None
        return job_object(found) | {"outputs": outputs}

    @app.delete("/v1/batch/jobs/{job_id}")
    async def delete(job_id: str, request: Request) -> dict[str, Any]:
        await in_thread(batches.delete, job_id, tenant_of(request))
        return {"id": job_id, "object": "batch", "deleted": True}

    router = APIRouter(route_class=APIRoute)  # no body, so no content type either

    @router.post("/v1/batch/jobs/{job_id}/cancel")
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        check_origin(request, handlers.settings.allowed_origins)
        return job_object(await in_thread(batches.cancel, job_id, tenant_of(request)))

    app.include_router(router)


def _create(batches: Batches, body: BatchJobRequest, tenant: str) -> Job:
    check_endpoint(body.endpoint)
    if body.agent_id is not None:
        raise BadRequestError("agent_id is not supported: this server has no agents; leave it out.", param="agent_id")
    if bool(body.input_files) == bool(body.requests):
        raise BadRequestError("give either input_files or requests, and not an empty list.", param="input_files")
    if len(body.requests or ()) > batches.settings.max_batch_lines:
        raise BadRequestError(
            f"the batch has {len(body.requests or ()):,} requests and the limit is "
            f"{batches.settings.max_batch_lines:,} (max_batch_lines); split it.",
            param="requests",
        )
    created = created_now()
    job = Job(
        id=new_id(), tenant=tenant, created=created, endpoint=body.endpoint, served=batches.settings.model,
        window=f"{body.timeout_hours}h", expires=created + body.timeout_hours * HOUR_S, inputs=body.input_files or [],
        metadata=body.metadata, model=batches.names.stated(body.model),
    )  # fmt: skip
    fill = _written(body.requests) if body.requests else joined(batches.store, job.inputs, tenant, "input_files")
    return batches.create(job, fill)


def _written(requests: Sequence[InlineRequest]) -> Callable[[Path], None]:
    """How a job's input is made of requests that came with the call."""

    def fill(target: Path) -> None:
        with target.open("w", encoding="utf-8") as out:
            for each in requests:
                told = (
                    {"body": each.body} if each.custom_id is None else {"custom_id": each.custom_id, "body": each.body}
                )
                out.write(json.dumps(told) + "\n")
            out.flush()
            os.fsync(out.fileno())

    return fill


def _list(batches: Batches, query: Query, tenant: str) -> dict[str, Any]:
    """A page of the jobs; what is no known parameter is metadata that they must have, as the client sends it."""
    page, size = query.number("page", 0, 0, 10**9), query.number("page_size", 100, 1, 1000)
    model, states = query.text("model"), query.several("status")
    for state in states:
        if state not in STATES.values():
            raise BadRequestError(f"status is {state[:40]!r}; it must be one of {', '.join(STATES.values())}.",
                                  param="status")  # fmt: skip
    if query.text("agent_id") is not None:
        raise BadRequestError("agent_id is not supported: this server has no agents; leave it out.", param="agent_id")
    query.flag("created_by_me", default=False)  # a key sees only its own
    after = _time(query.text("created_after"))
    ascending = query.choice("order_by", ("created", "-created"), "-created") == "created"
    metadata = query.rest()
    found = (
        job
        for job in batches.select(tenant, ascending=ascending)
        if (model is None or job.model == model)
        and (not states or STATES[job.state] in states)
        and (after is None or job.created > after)
        and all((job.metadata or {}).get(name) == value for name, value in metadata.items())
    )
    data, total = [], 0
    for total, job in enumerate(found, 1):
        if page * size < total <= (page + 1) * size:
            data.append(job_object(job))
    return {"object": "list", "data": data, "total": total}


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequestError(
            f"created_after is {text[:40]!r}; it must be a time such as 2026-01-31T12:00:00Z.", param="created_after"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _outputs(batches: Batches, job: Job) -> list[Any]:
    """The rows of both output files, with the job itself."""
    rows: list[Any] = []
    found = [batches.store.get(each, job.tenant) for each in (job.output, job.error) if each is not None]
    if (size := sum(each.size for each in found)) > MAX_INLINE_BYTES:
        raise BadRequestError(
            f"the outputs have {size:,} bytes and at most {MAX_INLINE_BYTES:,} come inline; download output_file.",
            param="inline",
        )
    for each in found:
        with batches.store.path(each.id).open(encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    return rows


def job_object(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "batch",
        "input_files": job.inputs,
        "endpoint": job.endpoint,
        "model": job.model,
        "agent_id": None,
        "metadata": job.metadata,
        "errors": [{"message": str(error["message"]), "count": 1} for error in job.errors],
        "status": STATES[job.state],
        "created_at": job.created,
        "started_at": job.times.get("in_progress"),
        "completed_at": next((job.times[state] for state in ("completed", "failed", "expired", "cancelled")
                              if state in job.times), None),
        "total_requests": job.total,
        "completed_requests": job.completed + job.failed,
        "succeeded_requests": job.completed,
        "failed_requests": job.failed,
        "output_file": job.output if job.ended else None,
        "error_file": job.error if job.ended else None,
        "outputs": None,
    }  # fmt: skip
