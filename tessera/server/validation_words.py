"""Pydantic's errors reworded: one sentence that names the field, the limit, and a short value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not known here",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "has more than the allowed {max_length} entries",
    "too_short": "needs at least {min_length} entries",
    "string_too_long": "is longer than the allowed {max_length} characters",
    "string_too_short": "needs at least {min_length} characters",
    "literal_error": "must be one of {expected}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "json_invalid": "is not valid JSON {error}",
    "too_many_keys": "has more than the allowed {max_length} entries",
}
# Errors about the wrong type: in a union, every branch but the intended one reports one.
_KINDS = {"string_type", "bool_type", "int_type", "int_parsing", "int_from_float", "float_type", "list_type",
          "dict_type", "model_type", "model_attributes_type", "literal_error"}  # fmt: skip
PLAIN = re.compile(r"[^\W\d]\w*|-?\d+")  # a field, or a token id as a key
MAX_VALUE = 40  # characters of a reported value
_BRANCHES = {"str", "int", "float", "bool", "TypedGrammar"}  # in a path they name the tried branch of a union


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """Return the path of the first wrong field, such as "messages.0.role", and its fault."""
    return describe_mistake(error.errors(include_url=False, include_input=False))


def describe_mistake(findings: Sequence[Mapping[str, Any] | Any]) -> tuple[str, str]:
    """Return the first wrong field's path and fault; for a union, those of the branch that matched most."""
    paths = [_path(finding.get("loc", ())) for finding in findings]
    root = next((count for count in (1, 2) if paths[0][:count] != ("body",)), 1)
    same = [(path, finding) for path, finding in zip(paths, findings, strict=True) if path[:root] == paths[0][:root]]
    furthest = max((_rank(path) for path, _ in same))
    meant = [(path, finding) for path, finding in same if _rank(path) == furthest]
    meant = [(path, finding) for path, finding in meant if path == meant[0][0]]
    others = [finding for _, finding in meant if finding.get("type") not in _KINDS]
    if others:
        return _shown(meant[0][0]), _words(others[0])
    words = list(dict.fromkeys(_words(finding) for _, finding in meant))
    value = _value(meant[0][1].get("input"))
    told = [each.removesuffix(value) for each in words]
    told = told[:1] + [each.removeprefix("must be ") for each in told[1:]]
    return _shown(meant[0][0]), " or ".join(told) + value * words[0].endswith(value)


def _words(finding: Mapping[str, Any]) -> str:
    context, kind = finding.get("ctx") or {}, str(finding.get("type"))
    if context.get("min_length") == 1 and kind in ("too_short", "string_too_short"):
        return "must not be empty"
    words = _WORDS.get(kind, "is not valid").format_map(context)
    return words + _value(finding.get("input")) * words.startswith("must be ")


def _value(value: Any) -> str:
    """Show a short, simple value; long or nested ones would not help."""
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    if isinstance(value, int) and value.bit_length() > 100:  # Python refuses to print thousands of digits
        return ""
    if not isinstance(value, str | int | float) or len(shown := repr(value)) > MAX_VALUE:
        return ""
    return f", not {shown}"


def _rank(path: tuple[str | int, ...]) -> tuple[int, tuple[int, ...]]:
    return len(path), tuple(part for part in path if isinstance(part, int))


def _path(location: Sequence[str | int]) -> tuple[str | int, ...]:
    # The path holds the type names of a union's branches, which mean nothing to a client.
    return tuple(
        part for part in location if isinstance(part, int) or (PLAIN.fullmatch(part) and part not in _BRANCHES)
    )


def _shown(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))[:200]
