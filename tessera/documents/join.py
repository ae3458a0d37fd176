"""Several replies about one document joined to one record: windows of a long document, and readings that vote.

A value that windows read differently is shown in both forms and asks for review. The items of lists follow one
another; those of a page that two windows share, and a row that a page break cut, are there once. Of a row that both
windows read, what one of them saw only half of is taken from the other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.documents.record import Field
from tessera.documents.schemas import Schema, paths_in


@dataclass(frozen=True)
class Part:
    """What one reply says: its value, typed, the fields of its leaves by path, and the pages that it saw."""

    pages: tuple[int, ...]
    value: Mapping[str, Any]
    fields: Mapping[str, Field] = field(default_factory=dict)


def join(parts: Sequence[Part], schema: Schema) -> Part:
    """Join the parts of consecutive windows."""
    if len(parts) == 1:
        return parts[0]
    pages = tuple(dict.fromkeys(page for part in parts for page in part.pages))
    if schema.plain:
        return _joined_text(parts, pages)
    fields: dict[str, Field] = {}
    value = _joined(schema.wire, [part.value for part in parts], _Place("", tuple(parts), ("",) * len(parts)), fields)
    return Part(pages, value, fields)


def _joined_text(parts: Sequence[Part], pages: tuple[int, ...]) -> Part:
    text = "\n\n".join(str(part.value.get("text") or "").strip() for part in parts)
    texts = [part.fields["text"] for part in parts if "text" in part.fields]
    worst = min(texts, key=lambda each: each.score)
    checks = tuple(dict.fromkeys(check for each in texts for check in each.checks))
    whole = replace(worst, value=text, raw=text, checks=checks, review=any(each.review for each in texts))
    return Part(pages, {"text": text}, {"text": whole})


@dataclass(frozen=True)
class _Place:
    """Where a value goes, and the path at which each part has it."""

    path: str
    parts: tuple[Part, ...]
    sources: tuple[str, ...]

    def at(self, name: str) -> _Place:
        inner = (f"{source}.{name}" if source else name for source in self.sources)
        return _Place(f"{self.path}.{name}" if self.path else name, self.parts, tuple(inner))


def _joined(wire: Mapping[str, Any], values: Sequence[Any], place: _Place, fields: dict[str, Field]) -> Any:
    if "properties" in wire:
        return {
            name: _joined(part, [_get(value, name) for value in values], place.at(name), fields)
            for name, part in wire["properties"].items()
        }
    if "items" in wire:
        return _joined_lists(values, place, fields)
    return _best(values, place, fields)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _best(values: Sequence[Any], place: _Place, fields: dict[str, Field]) -> Any:
    """The best-scored reading that is not null; others that differ are conflicts."""
    read = [part.fields.get(source) for part, source in zip(place.parts, place.sources, strict=True)]
    found = [index for index, value in enumerate(values) if value not in (None, "")]
    if not found:
        chosen = next((index for index, each in enumerate(read) if each is not None), None)
        if chosen is not None and (kept := read[chosen]) is not None:
            fields[place.path] = replace(kept, path=place.path)
        return None
    best = max(found, key=lambda index: (each.score if (each := read[index]) else 0.0, -index))
    others = [index for index in found if _plain(values[index]) != _plain(values[best])]
    if (kept := read[best]) is not None:
        said = tuple(
            f"{place.path}: pages {_pages(place.parts[index])} say {str(values[index])[:60]!r}, "
            f"pages {_pages(place.parts[best])} {str(values[best])[:60]!r}"
            for index in others
        )
        fields[place.path] = replace(
            kept, path=place.path, checks=(*kept.checks, *said), review=kept.review or bool(others)
        )
    return values[best]


def _pages(part: Part) -> str:
    return f"{part.pages[0]}-{part.pages[-1]}" if len(part.pages) > 1 else str(part.pages[0])


@dataclass
class _Row:
    """A row of a joined list; `origins` are the parts and paths that say it, several for one that was read twice."""

    value: Any
    origins: list[tuple[Part, str]]
    cut: bool = False  # united from two halves


def _joined_lists(values: Sequence[Any], place: _Place, fields: dict[str, Field]) -> list[Any]:
    rows: list[_Row] = []
    for index, value in enumerate(values):
        items = value if isinstance(value, list) else []
        part, source = place.parts[index], place.sources[index]
        shared = index > 0 and bool(set(part.pages) & set(place.parts[index - 1].pages))
        skip = _overlap([row.value for row in rows], items) if shared else 0
        for number, item in enumerate(items):
            origin = (part, f"{source}[{number}]")
            if number < skip:
                again = rows[len(rows) - skip + number]
                again.value = _fuller(again.value, item)
                again.origins.append(origin)
            elif number == skip and index and rows and (whole := _united(rows[-1].value, item)) is not None:
                rows[-1].value, rows[-1].cut = whole, True
                rows[-1].origins.append(origin)
            else:
                rows.append(_Row(item, [origin]))
    for number, row in enumerate(rows):
        _move_fields(row, f"{place.path}[{number}]", fields)
    return [row.value for row in rows]


def _move_fields(row: _Row, path: str, fields: dict[str, Field]) -> None:
    for tail, value in paths_in(row.value):
        tail = f".{tail}" if tail and not tail.startswith("[") else tail
        read = [
            (part, each) for part, source in row.origins if (each := part.fields.get(f"{source}{tail}")) is not None
        ]
        if not read:
            continue
        _, chosen = next((each for each in read if _plain(each[1].value) == _plain(value)), read[0])
        said = ["joined over a page break"] if row.cut else []
        said += [
            f"{path}{tail}: pages {_pages(part)} say {str(each.value)[:60]!r} instead"
            for part, each in read
            if not row.cut and each.value not in (None, "") and not _begins(value, each.value)
        ]
        fields[f"{path}{tail}"] = replace(
            chosen, path=f"{path}{tail}", value=value, checks=(*chosen.checks, *said),
            review=chosen.review or bool(said),
        )  # fmt: skip


def _begins(whole: Any, part: Any) -> bool:
    """Whether two values are equal, or the one is a text that begins with the words of the other."""
    if _plain(whole) == _plain(part):
        return True
    if not isinstance(whole, str) or not isinstance(part, str):
        return False
    words = [_plain(word) for word in part.split()]
    return words == [_plain(word) for word in whole.split()][: len(words)]


def _fuller(one: Any, other: Any) -> Any:
    """A row that two windows read: what the first lacks, or has only the beginning of, is the other's."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {name: _fuller(value, other.get(name)) for name, value in one.items()}
    if one in (None, "", []):
        return one if other is None else other
    return other if _begins(other, one) and _plain(other) != _plain(one) else one


def _overlap(rows: Sequence[Any], items: Sequence[Any]) -> int:
    """How many rows at the start of `items` are the last ones of `rows` again, read from the page that both saw."""
    for count in range(min(len(rows), len(items)), 0, -1):
        pairs = list(zip(rows[-count:], items[:count], strict=True))
        if all(_is_same_row(*pair) for pair in pairs):
            return count
    return 0


def _is_same_row(one: Any, other: Any) -> bool:
    """Whether two readings are of one row: most of what both read is equal, and its numbers are."""
    first, second = dict(paths_in(one)), dict(paths_in(other))
    both = [path for path in first if first[path] not in (None, "") and second.get(path) not in (None, "")]
    if not both:
        return False
    same = [path for path in both if _begins(first[path], second[path]) or _begins(second[path], first[path])]
    numbers = [path for path in both if isinstance(first[path], int | float)]
    return len(same) > len(both) / 2 and all(path in same for path in numbers)


def _united(one: Any, other: Any) -> Any:
    """One row from the two halves that a page break left; None if these are two rows.

    Halves lack what the other has, and agree where both say something. A second half of nothing but text goes on with
    the one text that the first half has.
    """
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return None
    lacks_one = [name for name, value in one.items() if value in (None, "", [])]
    lacks_other = [name for name, value in other.items() if value in (None, "", [])]
    adds = [name for name in lacks_one if name not in lacks_other]
    had = [name for name in lacks_other if name not in lacks_one]
    both = [name for name in one if name not in lacks_one and name not in lacks_other]
    if not adds and had and len(both) == 1 and _is_tail(one, other[both[0]], both[0]):
        return {name: f"{value} {other[name]}" if name in both else value for name, value in one.items()}
    if not adds or not had or any(_plain(one[name]) != _plain(other[name]) for name in both):
        return None
    return {name: other[name] if name in adds else value for name, value in one.items()}


def _is_tail(row: Mapping[str, Any], text: Any, name: str) -> bool:
    """Whether a text goes on with a row's: it is the row's only one, and begins in the middle of a sentence."""
    texts = [each for each, value in row.items() if isinstance(value, str) and value]
    return texts == [name] and isinstance(text, str) and text[:1].islower()


def _plain(value: Any) -> str:
    """A value for comparison: letters without case and spaces."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return re.sub(r"\W+", "", text).casefold() or text


def vote(parts: Sequence[Part], schema: Schema) -> Part:
    """Join readings of the same pages: each value is what most of them say, and its score their share.

    The rows of a list are matched by their first text. A field on which readings differ asks for review.
    """
    if len(parts) == 1:
        return parts[0]
    fields: dict[str, Field] = {}
    value = _voted(schema.wire, [part.value for part in parts], "", fields)
    return Part(parts[0].pages, value, fields)


def _voted(wire: Mapping[str, Any], values: Sequence[Any], path: str, fields: dict[str, Field]) -> Any:
    if "properties" in wire:
        return {
            name: _voted(part, [_get(value, name) for value in values], f"{path}.{name}" if path else name, fields)
            for name, part in wire["properties"].items()
        }
    if "items" in wire:
        return _voted_rows(wire["items"], values, path, fields)
    counts = Counter(json.dumps(value) for value in values)
    # Of equally frequent values the one that was read first: the first reading is the greedy one.
    written, count = counts.most_common(1)[0]
    chosen = json.loads(written)
    differ = "" if len(counts) == 1 else f"{path}: {len(values)} readings say {', '.join(counts)}"
    state = "missing" if chosen is None else "blank" if chosen == "" else "found"
    raw = "" if chosen is None else str(chosen)
    checks = (differ[:500],) if differ else ()
    fields[path] = Field(path, chosen, raw, state, count / len(values), checks=checks, review=bool(differ))  # type: ignore[arg-type]
    return chosen


def _voted_rows(wire: Mapping[str, Any], values: Sequence[Any], path: str, fields: dict[str, Field]) -> list[Any]:
    by_key = [{_row_key(item): item for item in value} if isinstance(value, list) else {} for value in values]
    counts = Counter(key for rows in by_key for key in rows)
    order = list(dict.fromkeys(key for rows in by_key for key in rows))
    kept = [key for key in order if 2 * counts[key] > len(values)]
    return [
        _voted(wire, [rows.get(key) for rows in by_key], f"{path}[{number}]", fields) for number, key in enumerate(kept)
    ]


def _row_key(item: Any) -> str:
    return next((_plain(value) for _, value in paths_in(item) if isinstance(value, str) and value), _plain(item))
