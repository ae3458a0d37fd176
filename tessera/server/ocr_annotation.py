"""The annotation of a whole document under the caller's schema or a preset, with its evidence beside it.

`document_annotation` is exactly the caller's schema, so what speaks for each value is in `annotation_metadata`.
Mistral's clients drop that key, and everybody else may read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tessera.documents import plan
from tessera.documents.extraction import Options
from tessera.documents.page import Page
from tessera.documents.presets import ASK, Preset, named, open_preset
from tessera.documents.record import Record
from tessera.documents.stored import field_object
from tessera.documents.streaming import extract_records
from tessera.errors import DocumentError, GrammarError, TesseraError, UsageError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams
from tessera.server.errors import BadRequestError
from tessera.server.ocr_fields import page_text, schema_of
from tessera.server.ocr_schemas import OcrRequest

if TYPE_CHECKING:
    from tessera.server.ocr import Given, OcrReader

MARGIN = 256  # tokens of a prompt beside its images
LEAST_REPLY = 256  # tokens


def annotated(reader: OcrReader, body: OcrRequest, given: Given, pages: Sequence[Page]) -> dict[str, Any]:
    """The keys of the response that annotate the document."""
    if body.preset is not None:
        preset = named(body.preset)
        if preset.schema.plain or preset.images > 1:
            raise BadRequestError(f"the preset {body.preset} gives no record of one document.", param="preset")
    else:
        schema = schema_of(body.document_annotation_format, "document_annotation_format")
        try:
            preset = open_preset(schema, strict_nulls=True)
        except UsageError:  # more than extraction knows; the grammar still does
            return _direct(reader, body, schema, pages)
        if body.document_annotation_prompt:
            preset = replace(preset, ask=f"{body.document_annotation_prompt}\n{ASK}")
    options = Options(pages=page_text(body.pages), budget=reader.budget, limits=reader.limits, tiles=_tiles(reader))
    try:
        record = next(iter(extract_records([given.path], preset, reader.model, options)))
    except GrammarError as error:
        raise BadRequestError(str(error), param="document_annotation_format") from error
    if record.error is not None:
        raise DocumentError(str(record.message).replace(str(given.path), given.name), code=record.error)
    if body.preset is None and not _conforms(record, preset):
        return _direct(reader, body, schema, pages)
    return {
        "document_annotation": json.dumps(record.value, ensure_ascii=False),
        "annotation_metadata": {
            "fields": [field_object(each) for each in record.fields.values()],
            "checks": list(record.checks),
            "review": record.review,
        },
    }


def _tiles(reader: OcrReader) -> str | None:
    return None if reader.max_images >= 5 else "off"


def _conforms(record: Record, preset: Preset) -> bool:
    """Return False if a value could not be read that the caller's schema needs."""
    for path, field in record.fields.items():
        leaf = preset.schema.leaf(path)
        if field.value is None and leaf is not None and not leaf.nullable:
            return False
    return record.value is not None


def _direct(reader: OcrReader, body: OcrRequest, schema: Mapping[str, Any], pages: Sequence[Page]) -> dict[str, Any]:
    """Ask once about all pages, under the schema as it is; without evidence for single values."""
    shown = [page for page in pages if not page.blank]
    budget = reader.budget
    used = MARGIN + sum(plan.page_tokens(page, "off", budget) for page in shown)
    if len(shown) > reader.max_images or used + LEAST_REPLY > budget.context_tokens:
        raise BadRequestError(
            f"{len(shown)} pages are wanted, and under this schema they must fit into one request, of at most "
            f"{reader.max_images} images and {budget.context_tokens:,} tokens; choose pages, or a simpler schema.",
            param="document_annotation_format",
        )
    asks = [body.document_annotation_prompt] if body.document_annotation_prompt else []
    names = ", ".join(f'"{name}"' for name in schema.get("properties") or ())
    asks.append(f"Extract {{{names}}} as JSON." if names else "Answer as JSON.")
    images = tuple(Image(page.image(plan.page_side(page, budget))) for page in shown)
    grammar = Grammar("json_schema", json.dumps(schema), compact=True)
    params = SamplingParams(max_tokens=min(budget.context_tokens - used, 4096), grammar=grammar)
    (reply,) = reader.model.each([[Message("user", (*images, "\n".join(asks)))]], params)
    if isinstance(reply, GrammarError):
        raise BadRequestError(str(reply), param="document_annotation_format") from reply
    if isinstance(reply, TesseraError):
        raise reply
    if reply.finish_reason != "stop":
        return {"document_annotation": None, "annotation_metadata": {"problem": "length"}}
    return {"document_annotation": reply.text, "annotation_metadata": None}
