"""One record from the results of a unit's items: readings voted, windows joined, checks run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tessera.chat import Usage
from tessera.documents.answers import Answer
from tessera.documents.checks import run_checks
from tessera.documents.join import Part, join, vote
from tessera.documents.plan import Unit
from tessera.documents.presets import Preset
from tessera.documents.record import Record

PROBLEMS = {
    "loop": "the reply repeated itself without end",
    "length": "the reply was cut at its longest",
    "invalid": "the reply was not whole JSON",
    "shape": "the reply lacked parts of the schema",
}

WRAPPED = "the reply had a fence or words around its JSON"


def assemble(unit: Unit, results: Sequence[str | None], preset: Preset) -> Record:
    """Make the record of a unit from its items' results, window by window and reading by reading."""
    told: list[Mapping[str, Any]] = [{"error": _ABSENT} if each is None else json.loads(each) for each in results]
    readings = [None if "error" in each else Answer.of(each) for each in told]
    errors = [each["error"] for each in told if "error" in each]
    parts = []
    for start in range(0, len(readings), preset.readings):
        same = [each for each in readings[start : start + preset.readings] if each is not None]
        if same:
            parts.append(vote([Part(each.pages, each.value, each.fields) for each in same], preset.schema))
    if not parts:
        return _failed(unit, errors)
    whole = join(parts, preset.schema)
    good = [each for each in readings if each is not None]
    checks = [PROBLEMS[each.problem] + f" (pages {_span(each.pages)})" for each in good if each.problem]
    checks += [each.message if each.number is None else f"page {each.number}: {each.message}" for each in unit.errors]
    checks += [f"pages {_span(each.get('pages') or [0])}: {each['message']}" for each in errors]
    notes = [WRAPPED + f" (pages {_span(each.pages)})" for each in good if each.wrapped]
    failures = run_checks(preset.checks, whole.value, preset.schema)
    fields = dict(whole.fields)
    for failure in failures:
        for path in failure.paths:
            if path in fields:
                fields[path] = replace(fields[path], checks=(*fields[path].checks, failure.text), review=True)
    said = [*checks, *(failure.text for failure in failures)]
    usage = [asdict(each.usage) for each in good]
    return Record(
        unit.document,
        unit.pages,
        whole.value,
        fields,
        checks=tuple(dict.fromkeys(said)),
        notes=tuple(dict.fromkeys(notes)),
        review=bool(said) or any(each.review for each in fields.values()),
        retried=sum(each.retried for each in good),
        seconds=sum(each.seconds for each in good),
        usage=Usage(**{name: sum(each[name] for each in usage) for name in asdict(Usage())}),
    )


_ABSENT = {"code": "not_done", "message": "the run ended before these pages were read; run it again."}


def _failed(unit: Unit, errors: Sequence[Mapping[str, Any]]) -> Record:
    if errors:
        code, message = errors[0]["code"], errors[0]["message"]
    elif unit.errors:
        code, message = unit.errors[0].code, unit.errors[0].message
    else:
        where = "its only page" if len(unit.blank) == 1 else f"any of its {len(unit.blank)} pages"
        code, message = "blank", f"{unit.document} has nothing on {where}."
    return Record(unit.document, unit.pages, None, error=code, message=message, review=True)


def _span(pages: Sequence[int]) -> str:
    return f"{pages[0]}-{pages[-1]}" if len(pages) > 1 else str(pages[0])
