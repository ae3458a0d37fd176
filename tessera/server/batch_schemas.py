"""Schemas of the calls that begin batches, OpenAI's and Mistral's; every field with its bounds, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera.server.body import MAX_JSON_VALUES
from tessera.server.file_table import LEAST_AGE_S, MOST_AGE_S
from tessera.server.schemas import JsonObject, ModelName, Name, Part, Request, counted

MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # OpenAI's limits
MAX_HOURS = 168
MAX_INPUTS = 64

FileId = Annotated[str, Field(min_length=1, max_length=64)]
Key = Annotated[str, Field(max_length=MAX_KEY)]
Value = Annotated[str, Field(max_length=MAX_VALUE)]
Metadata = Annotated[dict[Key, Value], counted(MAX_METADATA), Field(max_length=MAX_METADATA)]


class ExpiresAfter(Part):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=LEAST_AGE_S, le=MOST_AGE_S)


class BatchCreateRequest(Request):
    """OpenAI's batch."""

    input_file_id: FileId
    endpoint: Name
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class InlineRequest(Part):
    """One request of a Mistral batch that brings them along."""

    custom_id: Value | None = None
    body: JsonObject


class BatchJobRequest(Request):
    """Mistral's batch job."""

    endpoint: Name
    input_files: Annotated[list[FileId], Field(max_length=MAX_INPUTS, fail_fast=True)] | None = None
    requests: Annotated[list[InlineRequest], Field(max_length=MAX_JSON_VALUES, fail_fast=True)] | None = None
    model: ModelName | None = None
    agent_id: Name | None = None
    metadata: Metadata | None = None
    timeout_hours: int = Field(24, ge=1, le=MAX_HOURS)
