"""A compared value as JSON: one line of the table that is written, and one row of the report."""

from __future__ import annotations

from typing import Any

from tessera.documents.record import Field, Record
from tessera.documents.stored import field_object
from tessera.migration.cells import UNKNOWN, Cell

MAX_TEXT = 4_000  # characters of a value
KEPT = ("path", "value", "state", "score", "confidence", "box", "box_source", "checks")


def cell_object(cell: Cell, record: Record) -> dict[str, Any]:
    """A value of both records; `truth` is there if a label tells it."""
    told = {
        "document": cell.document,
        "pages": list(record.pages),
        "field": cell.name,
        "path": cell.path,
        "agrees": cell.match.agrees,
        "how": cell.match.how,
        "similarity": round(cell.match.similarity, 4),
        "old": _side(cell.old),
        "new": _side(cell.new),
        "right": cell.right,
        "by": cell.by,
    }
    return told if cell.truth is UNKNOWN else told | {"truth": _short(cell.truth)}


def _side(field: Field | None) -> dict[str, Any] | None:
    if field is None:
        return None
    told = field_object(field)
    return {name: _short(told[name]) for name in KEPT}


def _short(value: Any) -> Any:
    return f"{value[:MAX_TEXT]}…" if isinstance(value, str) and len(value) > MAX_TEXT else value
