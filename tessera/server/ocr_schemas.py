"""The schema of /v1/ocr, Mistral's; every field with its bounds, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera.server.schemas import JsonSchemaFormat, ModelName, Name, Part, Request, Text

MAX_NUMBERS = 10_000  # of pages that are listed one by one

PageNumber = Annotated[int, Field(ge=0, lt=10**6)]
PageNumbers = Annotated[list[PageNumber], Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True)]


class ImageUrl(Part):
    harmless = frozenset({"detail"})

    url: Text


class Document(Part):
    """A document by URL, as data, or as an uploaded file; which fields it has depends on its type."""

    type: Literal["document_url", "image_url", "file"]
    document_url: Text | None = None
    document_name: Name | None = None
    image_url: Text | ImageUrl | None = None
    file_id: Name | None = None


class AnnotationFormat(Part):
    """What an annotation must look like; only a JSON schema is possible."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


class OcrRequest(Request):
    model: ModelName | None = None
    document: Document
    pages: PageNumbers | Name | None = None
    include_image_base64: bool | None = None
    image_limit: int | None = Field(None, ge=0, le=10_000)
    image_min_size: int | None = Field(None, ge=0, le=100_000)
    bbox_annotation_format: AnnotationFormat | None = None
    document_annotation_format: AnnotationFormat | None = None
    document_annotation_prompt: Text | None = None
    table_format: Literal["markdown", "html"] | None = None
    extract_header: bool | None = None
    extract_footer: bool | None = None
    include_blocks: bool | None = None
    confidence_scores_granularity: Literal["word", "page", "block"] | None = None
    preset: Name | None = None  # ours: a preset's name instead of a document_annotation_format
