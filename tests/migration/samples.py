"""Records made by hand: invoices with known values, and the same with planted errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.documents.page import Box
from tessera.documents.presets import Preset, open_preset
from tessera.documents.record import BoxSource, Field, Record
from tessera.documents.schemas import paths_in

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string"},
        "date": {"type": "string", "format": "date"},
        "net": {"type": "number"},
        "tax": {"type": "number"},
        "gross": {"type": "number"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "amount": {"type": "number"}},
            },
        },
    },
    "x-checks": ["net + tax = gross"],
}
VALUE: Mapping[str, Any] = {
    "vendor": "Brightwater Press", "date": "2026-03-05", "net": 100.0, "tax": 19.0, "gross": 119.0,
    "items": [{"name": "Paper", "amount": 60.0}, {"name": "Ink", "amount": 40.0}],
}  # fmt: skip


def preset() -> Preset:
    return open_preset(SCHEMA)


def record(
    value: Mapping[str, Any] | None = None, *, document: str = "a.pdf", source: BoxSource = "none", **more: Any
) -> Record:
    """A record of this value; each field has a box from `source`."""
    value = VALUE if value is None else value
    box = None if source == "none" else Box(1, 0.1, 0.1, 0.3, 0.2)
    fields = {
        path: Field(
            path, leaf, str(leaf), "missing" if leaf is None else "found", 0.9, box=box,
            box_source=source if leaf is not None else "none", evidence=(0.9,),
        )
        for path, leaf in paths_in(value)
    }  # fmt: skip
    return Record(document, (1,), value, fields, **more)


def failed(document: str = "a.pdf") -> Record:
    return Record(document, (1,), None, error="timeout", message="no reply", review=True)
