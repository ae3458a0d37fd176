"""Fields and records as JSON: in the journal, in JSON lines, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tessera.chat import Usage
from tessera.documents.page import Box
from tessera.documents.record import Field, Record


def field_object(field: Field) -> dict[str, Any]:
    box = field.box
    edges = () if box is None else (box.left, box.top, box.right, box.bottom)
    told: dict[str, Any] = {each.name: getattr(field, each.name) for each in dataclasses.fields(field)}
    told = {name: _rounded(value) if name != "value" else value for name, value in told.items()}
    return told | {"box": None if box is None else [box.page, *map(_rounded, edges)]}


def field_of(given: Mapping[str, Any]) -> Field:
    place = given["box"]
    box = None if place is None else Box(int(place[0]), *map(float, place[1:]))
    rest = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name != "value"
    }
    return Field(**{**rest, "value": given["value"], "box": box})


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def record_object(record: Record) -> dict[str, Any]:
    """A record as one line of JSON holds it."""
    return {
        "document": record.document,
        "pages": list(record.pages),
        "value": record.value,
        "fields": {path: field_object(field) for path, field in record.fields.items()},
        "checks": list(record.checks),
        "notes": list(record.notes),
        "review": record.review,
        "error": record.error,
        "message": record.message,
        "retried": record.retried,
        "seconds": round(record.seconds, 3),
        "usage": dataclasses.asdict(record.usage),
    }


def lasting_object(record: Record) -> dict[str, Any]:
    """A record without what depends on interruptions, so that what is written does not."""
    told = record_object(record)
    del told["seconds"], told["usage"]["cached_tokens"]
    return told


def record_of(given: Mapping[str, Any]) -> Record:
    fields = {path: field_of(each) for path, each in given["fields"].items()}
    tuples = {name: tuple(given.get(name, ())) for name in ("pages", "checks", "notes")}
    return Record(**{**given, **tuples, "fields": fields, "usage": Usage(**given["usage"])})
