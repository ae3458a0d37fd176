"""Pydantic's findings in our own words: one sentence that names the field, and never the value sent."""

from __future__ import annotations

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
    "json_invalid": "is not valid JSON",
}


def first_mistake(error: ValidationError) -> tuple[str, str]:
    """The field's path, "messages.0.role", and what is wrong with it."""
    return describe_mistake(error.errors(include_url=False, include_input=False)[0])


def describe_mistake(finding: Mapping[str, Any] | Any) -> tuple[str, str]:
    path = _path(finding.get("loc", ()))
    words = _WORDS.get(str(finding.get("type")), "is not valid")
    return path, words.format_map(finding.get("ctx") or {})


def _path(location: Sequence[str | int]) -> str:
    # A union's alternatives stand in the path by their types' names, which say nothing to a client.
    parts = [str(part) for part in location if isinstance(part, int) or str(part).isidentifier()]
    return ".".join(parts)[:200]
