"""The fields of /v1/ocr that need more than a type: pages, schemas, and what is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.documents.presets import named
from tessera.errors import UsageError
from tessera.server.errors import BadRequestError
from tessera.server.ocr_schemas import OcrRequest


def page_text(pages: Sequence[int] | str | None) -> str | None:
    """Page numbers from 0, as the API has them, in the form of `documents.ranges`, from 1."""
    if pages is None:
        return None
    if not isinstance(pages, str):
        return _as_ranges(sorted(set(pages)))
    parts = []
    for part in pages.split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        is_range = first.isdecimal() and (not dash or last.isdecimal()) and len(part) <= 20
        if not is_range or (dash and int(last) < int(first)):
            raise BadRequestError(
                f'pages is {pages[:60]!r}; write numbers from 0 and ranges, such as "0-5" or "0,2-4".', param="pages"
            )
        parts.append(f"{int(first) + 1}-{int(last) + 1}" if dash else str(int(first) + 1))
    return ",".join(parts)


def _as_ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers from 0 as ranges from 1."""
    starts = [each for place, each in enumerate(numbers) if place == 0 or numbers[place - 1] != each - 1]
    ends = [each for place, each in enumerate(numbers) if numbers[place + 1 : place + 2] != [each + 1]]
    return ",".join(f"{start + 1}-{end + 1}" for start, end in zip(starts, ends, strict=True))


def no_such_page(pages: Sequence[int] | str | None, name: str) -> BadRequestError:
    """The error for pages that a document lacks, counted as the request does."""
    return BadRequestError(
        f"pages is {str(pages)[:60]}, and {name} has none of them; the first page is 0.",
        param="pages", code="no_such_page",
    )  # fmt: skip


def schema_of(given: Any, where: str) -> dict[str, Any]:
    """The schema in a format; raises BadRequestError if there is none."""
    schema = given.json_schema.schema_
    if schema is None:
        raise BadRequestError(f"{where}.json_schema.schema is required.", param=f"{where}.json_schema.schema")
    return dict(schema)


def check(body: OcrRequest) -> None:
    """Refuse what cannot be honoured, by name, before the document is read."""
    for name in ("extract_header", "extract_footer"):
        if getattr(body, name):
            raise BadRequestError(
                f"{name} is not supported: headers and footers are not told apart here; leave it out.",
                param=name, code="unsupported_parameter",
            )  # fmt: skip
    if body.document_annotation_prompt is not None and body.document_annotation_format is None:
        raise BadRequestError(
            "document_annotation_prompt needs a document_annotation_format.", param="document_annotation_prompt"
        )
    if body.preset is not None and body.document_annotation_format is not None:
        raise BadRequestError("preset and document_annotation_format exclude each other; keep one.", param="preset")
    for where in ("bbox_annotation_format", "document_annotation_format"):
        if (given := getattr(body, where)) is not None:
            schema_of(given, where)
    if body.preset is not None:
        try:
            named(body.preset)
        except UsageError as error:
            raise BadRequestError(str(error), param="preset") from error
    page_text(body.pages)
