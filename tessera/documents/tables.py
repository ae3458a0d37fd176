"""Records as tables: JSON lines, CSV, Excel and Parquet, each written whole, in memory that does not grow with it.

One record is one row. A list of objects is a sheet of its own in Excel, a list of structures in Parquet, and JSON
text in CSV. Numbers are numbers and dates are dates. A text never becomes a formula (CWE-1236).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.documents.record import Record
from tessera.documents.schemas import Schema
from tessera.documents.stored import lasting_object, record_object
from tessera.errors import MissingExtraError, UsageError
from tessera.machine import disk_room, written_whole

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # as OWASP lists them
SUFFIXES = (".jsonl", ".csv", ".xlsx", ".parquet")
BATCH_ROWS = 1000  # of Parquet's row groups
ABOUT = ("review", "checks", "error", "message", "retried")  # columns after the values


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table needs beside the records: their schema, and facts about the run for the last sheet."""

    schema: Schema
    about: Mapping[str, Any]
    csv_raw: bool = False  # no sign before texts that a spreadsheet would run


def check_format(path: Path) -> None:
    """Raise UsageError for a name whose suffix is no format, and MissingExtraError if its library is absent."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} ends in {path.suffix or 'nothing'}; name it {', '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def write_table(path: Path, records: Iterable[Record], layout: Layout) -> None:
    """Write records in the format of the path's suffix; the file appears whole or not at all."""
    check_format(path)
    from tessera.documents.workbook import write_xlsx

    writers: dict[str, Callable[[Path, Iterable[Record], Layout], None]] = {
        ".jsonl": _write_jsonl, ".csv": _write_csv, ".xlsx": write_xlsx, ".parquet": _write_parquet,
    }  # fmt: skip
    with disk_room(path.parent), written_whole(path) as partial:
        writers[path.suffix.lower()](partial, records, layout)


def columns_of(schema: Schema) -> list[str]:
    """The columns of a record's own row: leaves outside of lists of objects, and lists of values."""
    return [leaf.path.removesuffix("[]") for leaf in schema.leaves if "[]." not in leaf.path]


def header_of(before: Sequence[str], values: Sequence[str], after: Sequence[str]) -> list[str]:
    """The names of all columns, each once: a value that is named like one of ours gets a sign behind its name."""
    taken = {*before, *after, *values}
    named = []
    for name in values:
        new = name
        while new in (*before, *after) or (new != name and new in taken):
            new += "_"
        taken.add(new)
        named.append(new)
    return [*before, *named, *after]


def value_at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def pages_text(pages: tuple[int, ...]) -> str:
    """Example: "1-3, 5"."""
    parts: list[list[int]] = []
    for number in pages:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, dict.fromkeys(part))) for part in parts)


def _write_jsonl(path: Path, records: Iterable[Record], layout: Layout) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(lasting_object(record), ensure_ascii=False) + "\n")


def _write_csv(path: Path, records: Iterable[Record], layout: Layout) -> None:
    columns, lists = columns_of(layout.schema), layout.schema.lists
    # The mark at the start tells spreadsheets that this is UTF-8.
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        header = header_of(["document", "pages"], [*columns, *lists], ABOUT)
        writer.writerow([csv_cell(name, raw=layout.csv_raw) for name in header])
        for record in records:
            values = [value_at(record.value, path) for path in (*columns, *lists)]
            cells = [record.document, pages_text(record.pages), *values, *about_cells(record)]
            writer.writerow([csv_cell(cell, raw=layout.csv_raw) for cell in cells])


def about_cells(record: Record) -> list[Any]:
    """The cells of the columns in ABOUT."""
    return [record.review, "; ".join(record.checks) or None, record.error, record.message, record.retried]


def csv_cell(cell: Any, *, raw: bool = False) -> Any:
    """A value as a CSV file's cell: a spreadsheet would run a text that begins like a formula, so it gets a sign."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, list | Mapping):
        cell = json.dumps(cell, ensure_ascii=False)
    if raw or not isinstance(cell, str) or not cell.lstrip(" ").startswith(FORMULA_SIGNS) or _is_number(cell):
        return cell
    return f"'{cell}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _write_parquet(path: Path, records: Iterable[Record], layout: Layout) -> None:
    arrow = _pyarrow()
    import pyarrow.parquet

    properties = layout.schema.wire["properties"]
    names = header_of(["document", "pages"], list(properties), (*ABOUT, "fields"))
    about = {"review": arrow.bool_(), "checks": arrow.list_(arrow.string()), "retried": arrow.int32()}
    kinds = [
        arrow.string(), arrow.list_(arrow.int32()),
        *(_arrow_type(arrow, layout, part, name) for name, part in properties.items()),
        *(about.get(name, arrow.string()) for name in (*ABOUT, "fields")),
    ]  # fmt: skip
    schema = arrow.schema(list(zip(names, kinds, strict=True)))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(records):
            rows = [_parquet_row(record, layout) for record in batch]
            writer.write_table(arrow.Table.from_arrays(
                [arrow.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)],
                schema=schema,
            ))  # fmt: skip


def _parquet_row(record: Record, layout: Layout) -> list[Any]:
    values = [_arrow_value(layout, name, (record.value or {}).get(name)) for name in layout.schema.wire["properties"]]
    evidence = json.dumps(record_object(record)["fields"], ensure_ascii=False)
    about = [record.review, list(record.checks), record.error, record.message, record.retried, evidence]
    return [record.document, list(record.pages), *values, *about]


def _arrow_type(arrow: Any, layout: Layout, part: Mapping[str, Any], path: str) -> Any:
    if "properties" in part:
        inner = [
            (name, _arrow_type(arrow, layout, each, f"{path}.{name}")) for name, each in part["properties"].items()
        ]
        return arrow.struct(inner)
    if "items" in part:
        return arrow.list_(_arrow_type(arrow, layout, part["items"], f"{path}[]"))
    leaf = layout.schema.leaf(path)
    kinds = {
        "number": arrow.float64(), "amount": arrow.float64(), "integer": arrow.int64(), "date": arrow.date32(),
        "boolean": arrow.bool_(),
    }  # fmt: skip
    return kinds.get(leaf.kind if leaf else "text", arrow.string())


def _arrow_value(layout: Layout, path: str, value: Any) -> Any:
    from datetime import date

    if isinstance(value, Mapping):
        return {name: _arrow_value(layout, f"{path}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_arrow_value(layout, f"{path}[]", inner) for inner in value]
    leaf = layout.schema.leaf(path)
    if value is None or leaf is None:
        return value
    if leaf.kind == "date":
        return date.fromisoformat(value)
    return str(value) if leaf.kind == "enum" else value


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            "Parquet files need pyarrow; install it with: pip install 'tessera[parquet]', or write .xlsx or .csv."
        ) from error
    return pyarrow
