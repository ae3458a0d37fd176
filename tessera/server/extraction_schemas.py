"""Schemas of /v1/extractions; every field with its bounds, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera.documents.extraction import MAX_RETRIES
from tessera.server.batch_schemas import FileId, Metadata
from tessera.server.schemas import JsonObject, ModelName, Name, Part, Request, counted

MAX_DOCUMENTS = 1000  # files of one extraction; a zip is one
MAX_PASSWORD = 1024  # characters
MAX_CORRECTED, MAX_SEEN = 5000, 2000
FORMATS = ("xlsx", "csv", "jsonl", "parquet")


class ExtractionOptions(Part):
    """How documents are read and asked about."""

    pages: Name | None = None
    tiles: Literal["auto", "off", "2x2"] | None = None
    detect_rotation: bool | None = None
    verify: bool = False
    strict_nulls: bool = False
    retries: int = Field(4, ge=0, le=MAX_RETRIES)
    max_error: float = Field(0.01, gt=0, lt=1)


Password = Annotated[str, Field(min_length=1, max_length=MAX_PASSWORD)]


class ExtractionRequest(Request):
    input_file_ids: Annotated[list[FileId], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]
    model: ModelName | None = None
    preset: Name | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    options: ExtractionOptions | None = None
    passwords: Annotated[dict[FileId, Password], counted(MAX_DOCUMENTS), Field(max_length=MAX_DOCUMENTS)] | None = (
        None  # of locked files, by their ids
    )
    metadata: Metadata | None = None


class Correction(Part):
    """What a person said of a record: its value as it is now, and the paths of the values that were looked at."""

    key: Name
    value: JsonObject
    seen: Annotated[list[Name], Field(max_length=MAX_SEEN, fail_fast=True)] = Field(default_factory=list)
    whole: bool = False  # all of it is right


class TableRequest(Request):
    format: Literal["xlsx", "csv", "jsonl", "parquet"] = "xlsx"
    corrections: Annotated[list[Correction], Field(max_length=MAX_CORRECTED, fail_fast=True)] = Field(
        default_factory=list
    )
