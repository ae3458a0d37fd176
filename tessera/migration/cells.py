"""Two records of one document, value by value: whether they agree, and who is right where they differ.

Labels decide first. Without a label, a check decides that holds for one record and fails for the other; then the text
layer, if one value is printed there and the other is not. What none of them decides is left to a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from tessera.documents.checks import Outcome, outcomes
from tessera.documents.presets import Preset
from tessera.documents.record import Field, Record
from tessera.documents.schemas import Schema
from tessera.documents.spans import kind_of
from tessera.migration.agreement import Match, Rules, is_nothing, match
from tessera.migration.rows import Shape, aligned, shaped

Right = Literal["old", "new", "both", "neither"]
By = Literal["labels", "checks", "text layer"]
UNKNOWN: Final = object()  # the truth that nobody told
Triple = tuple[dict[str, Field] | None, dict[str, Field] | None, dict[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value as both models read it. `right` is None where nothing decides it."""

    document: str
    path: str  # with the row's number among the paired ones: "items[2].amount"
    group: str = ""  # the list, or empty for a value of the record itself
    row: int = 0  # among the group's paired rows
    old: Field | None
    new: Field | None
    truth: Any = UNKNOWN
    match: Match
    right: Right | None = None
    by: By | None = None

    @property
    def name(self) -> str:
        """The kind of field: "items[].amount"."""
        return kind_of(self.path)


@dataclass(frozen=True)
class Group:
    """One row of a list as both models read it: present or not, alike or not, and right or not if labels tell."""

    name: str
    in_old: bool
    in_new: bool
    agrees: bool
    in_truth: bool | None
    old_right: bool | None
    new_right: bool | None


@dataclass(frozen=True)
class Compared:
    """All values and rows of a document."""

    document: str
    old: Record
    new: Record
    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]


def compare_records(
    old: Record, new: Record, preset: Preset, rules: Rules, truth: Mapping[str, Any] | None = None
) -> Compared:
    """Compare the two records of a document; `truth` has labels by path."""
    work = _Document(old, new, preset, rules)
    shapes = shaped(old.fields), shaped(new.fields)
    true: Shape[Any] = shaped(_of_schema(truth or {}, preset.schema))
    cells: list[Cell] = []
    for path in _union(shapes[0].single, shapes[1].single, true.single):
        if path in preset.schema.lists:
            continue  # an empty list as a label
        pair = shapes[0].single.get(path), shapes[1].single.get(path)
        cells += work.cell(path, *pair, true.single.get(path, UNKNOWN))
    groups: list[Group] = []
    for name in _union(shapes[0].lists, shapes[1].lists, true.lists):
        known = true.lists.get(name, [] if is_nothing(true.single.get(name, UNKNOWN)) else None)
        for number, triple in enumerate(work.rows(name, shapes[0], shapes[1], known)):
            found = work.row(name, number, triple, is_complete(name, known, preset.schema))
            cells += found
            groups += work.group(name, triple, found)
    return Compared(new.document, old, new, tuple(cells), tuple(groups))


def _of_schema(truth: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Leave out labels of what the schema does not ask for, such as another column of a table."""
    return {
        path: value
        for path, value in truth.items()
        if schema.leaf(path) is not None or path in schema.lists or value == {}
    }


def is_complete(name: str, known: Sequence[Mapping[str, Any]] | None, schema: Schema) -> bool:
    """Return True if the labels of a list tell all values of each row, so that further rows are known to be wrong."""
    tails = [leaf.path.removeprefix(f"{name}[]").removeprefix(".") for leaf in schema.leaves if _is_in(name, leaf.path)]
    return known is not None and all(tail in row for row in known for tail in tails if "[]" not in tail)


def _is_in(name: str, path: str) -> bool:
    return path == f"{name}[]" or path.startswith(f"{name}[].")


@dataclass(frozen=True)
class _Document:
    old: Record
    new: Record
    preset: Preset
    rules: Rules

    def rows(
        self, name: str, old: Shape[Field], new: Shape[Field], known: Sequence[dict[str, Any]] | None
    ) -> list[Triple]:
        """Pair the rows of both records, through the labels' rows where there are any."""
        one, other = old.lists.get(name, []), new.lists.get(name, [])
        if known is None:
            pairs = aligned([_values(row) for row in one], [_values(row) for row in other], self._score(name))
            return [(_at(one, i), _at(other, j), None) for i, j in pairs]
        places = [
            {t: i for t, i in aligned(known, [_values(row) for row in side], self._score(name)) if t is not None}
            for side in (one, other)
        ]
        triples: list[Triple] = [
            (_at(one, places[0].get(t)), _at(other, places[1].get(t)), row) for t, row in enumerate(known)
        ]
        left = [
            [row for i, row in enumerate(side) if i not in place.values()]
            for side, place in zip((one, other), places, strict=True)
        ]
        pairs = aligned([_values(row) for row in left[0]], [_values(row) for row in left[1]], self._score(name))
        return triples + [(_at(left[0], i), _at(left[1], j), None) for i, j in pairs]

    def _score(self, name: str) -> Any:
        def score(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
            """How much two rows agree: a point a value, half of a text's similarity."""
            total = 0.0
            for tail in one:
                if tail not in other or (is_nothing(one[tail]) and is_nothing(other[tail])):
                    continue
                found = match(one[tail], other[tail], self._kind(_joined(name, 0, tail)), self.rules)
                total += 1.0 if found.agrees else 0.5 * found.similarity
            return total

        return score

    def row(self, name: str, number: int, triple: Triple, complete: bool) -> list[Cell]:
        old, new, known = triple
        cells = []
        for tail in _union(old or {}, new or {}, known or {}):
            truth = (None if complete else UNKNOWN) if known is None else known.get(tail, UNKNOWN)
            if isinstance(truth, Mapping) and not truth:
                continue  # a row that a reviewer did not look at
            fields = (old or {}).get(tail), (new or {}).get(tail)
            if (old is None or new is None) and all(_is_empty(field) for field in fields) and not _says(truth):
                continue  # an absent row and an empty cell say the same
            cells += self.cell(_joined(name, number, tail), *fields, truth, group=name, row=number)
        return cells

    def cell(
        self, path: str, old: Field | None, new: Field | None, truth: Any, *, group: str = "", row: int = 0
    ) -> list[Cell]:
        failed = self.old.error is not None, self.new.error is not None
        if all(failed):
            return []
        kind = self._kind(path)
        found = match(_value(old), _value(new), kind, self.rules)
        if any(failed):
            found = Match("failed", 0.0)
        right, by = self._judged(old, new, truth, kind, found)
        cell = Cell(
            document=self.new.document, path=path, group=group, row=row, old=old, new=new, truth=truth, match=found,
            right=right, by=by,
        )  # fmt: skip
        return [cell]

    def group(self, name: str, triple: Triple, cells: Sequence[Cell]) -> list[Group]:
        """The row as a whole: it agrees, or is right, if all its values do."""
        if self.old.error is not None and self.new.error is not None:
            return []
        old, new, _ = triple
        told = [cell for cell in cells if cell.truth is not UNKNOWN]
        is_told = bool(told) and len(told) == len(cells)
        agrees = old is not None and new is not None and all(cell.match.agrees for cell in cells)
        return [
            Group(
                name, old is not None, new is not None, agrees,
                any(not is_nothing(cell.truth) for cell in told) if is_told else None,
                (old is not None and all(cell.right in ("old", "both") for cell in told)) if is_told else None,
                (new is not None and all(cell.right in ("new", "both") for cell in told)) if is_told else None,
            )
        ]  # fmt: skip

    def _judged(
        self, old: Field | None, new: Field | None, truth: Any, kind: Any, found: Match
    ) -> tuple[Right | None, By | None]:
        if truth is not UNKNOWN:
            one = self.old.error is None and match(_value(old), truth, kind, self.rules).agrees
            other = self.new.error is None and match(_value(new), truth, kind, self.rules).agrees
            return _right(one, other), "labels"
        if found.agrees or found.how == "failed":
            return None, None
        if (right := self._by_checks(old, new)) is not None:
            return right, "checks"
        sources = [None if field is None or _is_empty(field) else field.box_source for field in (old, new)]
        if None not in sources and sources.count("text") == 1:
            return ("old" if sources[0] == "text" else "new"), "text layer"
        return None, None

    def _by_checks(self, old: Field | None, new: Field | None) -> Right | None:
        """The record for which a check about this value holds that fails for the other one; None if both have one."""
        held, failed = _sorted_out(self._outcomes[0], old)
        held_new, failed_new = _sorted_out(self._outcomes[1], new)
        for_old, for_new = bool(held & failed_new), bool(held_new & failed)
        return None if for_old == for_new else "old" if for_old else "new"

    @cached_property
    def _outcomes(self) -> list[list[Outcome]]:
        checks, schema = self.preset.checks, self.preset.schema
        return [[] if each.value is None else outcomes(checks, each.value, schema) for each in (self.old, self.new)]

    def _kind(self, path: str) -> Any:
        leaf = self.preset.schema.leaf(path)
        return None if leaf is None else leaf.kind


def _sorted_out(run: Iterable[Outcome], field: Field | None) -> tuple[set[str], set[str]]:
    """The checks about a field that hold, and those that fail."""
    about = [outcome for outcome in run if field is not None and field.path in outcome.paths]
    failed = {outcome.check for outcome in about if outcome.failure is not None}
    return {outcome.check for outcome in about} - failed, failed


def _right(one: bool, other: bool) -> Right:
    if one and other:
        return "both"
    return "old" if one else "new" if other else "neither"


def _value(field: Field | None) -> Any:
    return None if field is None else field.value


def _values(row: Mapping[str, Field]) -> dict[str, Any]:
    return {tail: field.value for tail, field in row.items()}


def _is_empty(field: Field | None) -> bool:
    return is_nothing(_value(field))


def _says(truth: Any) -> bool:
    return truth is not UNKNOWN and not is_nothing(truth)


def _at(rows: Sequence[dict[str, Any]], number: int | None) -> Any:
    return None if number is None else rows[number]


def _joined(name: str, number: int, tail: str) -> str:
    return f"{name}[{number}].{tail}" if tail and not tail.startswith("[") else f"{name}[{number}]{tail}"


def _union(*maps: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for each in maps for key in each))
