"""Labels: true values of documents by path, from JSON lines or CSV, as a review exports them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.documents.readings import dates_of
from tessera.documents.spans import child_path, group_of, item_path
from tessera.errors import UsageError, counted

MAX_LABELS = 100_000  # documents
MAX_LINE = 2**22  # characters
MAX_SAID = 5  # lines or documents without use that are named
Labels = dict[Path, dict[str, Any]]


def read_labels(path: Path, say: Callable[[str], None], *, trusted: bool = False) -> Labels:
    """Read true values by document, from JSON lines or CSV; paths are relative to the file's folder.

    A line of JSON has "document" and "value" (the record) or "fields" (values by path, as a review exports them). A
    CSV has a column "document", and a column for each path; an empty cell is a value that the document lacks. Lines
    that tell nothing are passed over, and said. With `trusted`, rows that `extract` wrote tell only the values that
    ask for no review, and as they are printed: "$1,234.50" and not 1234.5. An item of a list that has others is {}.
    Raises UsageError if no label is left.
    """
    labels: Labels = {}
    mistakes: list[str] = []
    for number, (document, values) in enumerate(_rows(path, mistakes, trusted), 1):
        if number > MAX_LABELS:
            raise UsageError(f"{path} has more than {MAX_LABELS:,} labels; divide it.")
        labels.setdefault(path.parent / document, {}).update(values)
    for line in some_of(mistakes, f"line of {path} is passed over", f"lines of {path} are passed over"):
        say(line)
    if not labels:
        raise UsageError(f'{path} has no labels; each line needs "document" and "value", or a CSV column "document".')
    return labels


def _rows(path: Path, mistakes: list[str], trusted: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
        try:
            yield from (
                _csv_rows(file, mistakes, trusted) if path.suffix == ".csv" else _json_rows(file, mistakes, trusted)
            )
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not text in UTF-8; save it so.") from error
        except csv.Error as error:
            raise UsageError(f"{path} is not a CSV that can be read: {error}.") from error


def _csv_rows(file: Any, mistakes: list[str], trusted: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(file)
    if {"field", "action", "value"} <= set(rows.fieldnames or ()):
        raise UsageError(f"{file.name} is the CSV of a review's corrections; export its labels (JSONL) and give those.")
    if trusted and {"pages", "review", "checks", "retried"} <= set(rows.fieldnames or ()):
        raise UsageError(
            f"{file.name} is a table of extract, which does not say which values ask for review; give rows that were "
            "written as .jsonl, or take its column `review` out if you checked every value."
        )
    for number, row in enumerate(rows, 2):
        document = row.pop("document", None)
        if not document:
            mistakes.append(f"line {number} names no document")
            continue
        yield document, {key: value or None for key, value in row.items() if isinstance(key, str)}


def _json_rows(file: Any, mistakes: list[str], trusted: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            mistakes.append(f"line {number} is not JSON")
            continue
        document = told.get("document") if isinstance(told, Mapping) else None
        # A row that `extract` wrote has both: there "fields" are objects with the values' evidence.
        value = told.get("value") or told.get("fields") if isinstance(told, Mapping) else None
        if not isinstance(document, str) or not isinstance(value, Mapping):
            mistakes.append(f'line {number} lacks "document" and "value"')
            continue
        try:
            values = by_path(value, gaps=trusted) if told.get("value") else dict(value)
            if trusted and told.get("value") and isinstance(told.get("fields"), Mapping):
                values = _trusted(told, values)
        except RecursionError:
            mistakes.append(f"line {number} is nested too deeply")
            continue
        yield document, values


def _trusted(row: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row that `extract` wrote, the values that ask for no review, numbers and dates as the model wrote them.

    Left out is also what nobody judged: an empty list, what the reply lacked, and a text that went in circles, for
    which only the row as a whole asks for review.
    """
    told = {path: each for path, each in row["fields"].items() if isinstance(each, Mapping)}
    if row.get("review") and not any(each.get("review") for each in told.values()):
        return {}
    trusted = {}
    for path, value in values.items():
        if path in told and not told[path].get("review") and (value is not None or told[path].get("raw") != ""):
            trusted[path] = _as_printed(value, told[path].get("raw"))
        elif group := group_of(path):
            trusted.setdefault(group, {})
    return trusted


def _as_printed(value: Any, raw: Any) -> Any:
    """A number or date as it was printed; a text is its value already, without JSON's escapes or a fence."""
    if not isinstance(raw, str) or isinstance(value, bool) or value is None:
        return value
    return raw if isinstance(value, int | float) or dates_of(str(value)) else value


def by_path(value: Any, path: str = "", *, gaps: bool = False) -> dict[str, Any]:
    """Return the leaves of a record's true values: {"items": [{"name": "Tea"}]} is {"items[0].name": "Tea"}.

    An empty object tells nothing: a review exports it for a row of which nothing was looked at. With `gaps`, that in a
    list is a leaf, which tells that the row is there.
    """
    if isinstance(value, Mapping) and not (gaps and not value and path.endswith("]")):
        inside = [(child_path(path, key), each) for key, each in value.items()]
    elif isinstance(value, list) and value:
        inside = [(item_path(path, number), each) for number, each in enumerate(value)]
    else:
        return {path: value}
    return {at: leaf for place, each in inside for at, leaf in by_path(each, place, gaps=gaps).items()}


def some_of(lines: Sequence[str], one: str, many: str) -> list[str]:
    """One line about several, which names the first; none about none."""
    named = f"{'; '.join(lines[:MAX_SAID])}{'; ...' if len(lines) > MAX_SAID else ''}"
    return [f"{counted(len(lines), one, many)}: {named}"] if lines else []
