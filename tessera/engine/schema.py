"""Rewrites JSON schemas for llguidance: drops keywords that exclude nothing, refuses those with no exact form.

llguidance follows most of JSON Schema and refuses the rest by keyword. Here a schema is rewritten in supported
keywords if that changes nothing: a keyword that excludes no value is dropped, an unknown format is an
annotation, names in patterns become properties. Strings and arrays without limits get default limits, so that
repetition ends. A schema may also be followed loosely: unsupported parts are then annotations too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera.engine.patterns import MAX_WORDS, finite_language, matches_more
from tessera.errors import GrammarError

DEFAULT_MAX_LENGTH = 32_768  # characters: several dense pages, but far less than a context
# For formats whose texts are unbounded. A pattern gets no limit: each character would add a matcher state for
# each state of the pattern, which was measured to take 30 times as long and to end replies of 400 characters.
DEFAULT_MAX_OF_FORMATS = {"uri": 2_048, "duration": 64}
DEFAULT_MAX_ITEMS = 4_096
MAX_COPIED = 16_384  # total characters of a part that is repeated for several names
MAX_EXACT = 2**53  # llguidance's 64-bit floats hold integers exactly up to here
MAX_BOUND = 2**62  # a larger bound overflows there
LEAST_BOUND = 1e-50  # a bound nearer to zero has no finite text
# A schema's draft determines its keywords; any other URL determines nothing.
DRAFTS = re.compile(
    r"http://json-schema\.org/draft-0[3467]/schema#?|https://json-schema\.org/draft/20(19-09|20-12)/schema#?"
)
KNOWN_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
NULL_IS_A_VALUE = {"const", "default", "example"}
ANNOTATIONS = {
    "title", "description", "$comment", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$id",
}  # fmt: skip

SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SCHEMAS = (
    "items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "then", "else",
)  # fmt: skip
# With one of these a property may be declared elsewhere.
IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas")
NOT_FOLLOWED = {
    "not", "uniqueItems", "contains", "minContains", "maxContains", "if", "then", "else", "dependentRequired",
    "dependentSchemas", "dependencies", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "x-guidance",
}  # fmt: skip
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
BEYOND_REGEX = re.compile(r"\(\?<?[=!]|\\[1-9]|\\k<")  # look-around and back references

Schema = dict[str, Any]


def followed(schema: Mapping[str, Any], *, loosely: bool = False) -> Schema:
    """Rewrite a schema for llguidance; raises GrammarError for numbers that it would round.

    With `loosely`, unsupported parts are left out. The caller has checked that the schema is not nested deeply.
    """
    return _followed_parts(dict(schema), _loosened if loosely else _exact)


def outline(schema: Any) -> Any:
    """Reduce a schema that cannot be followed even loosely to its types, properties and choices."""
    if not isinstance(schema, dict):
        return schema
    kept = {name: schema[name] for name in ("type", "required", "enum", "const", "$ref") if name in schema}
    for name in ("properties", "$defs", "definitions"):
        if name in schema:
            kept[name] = {key: outline(part) for key, part in schema[name].items()}
    if isinstance(schema.get("items"), dict):
        kept["items"] = outline(schema["items"])
    if "anyOf" in schema:
        kept["anyOf"] = [outline(part) for part in schema["anyOf"]]
    return _bound(kept)


def _followed(schema: Any, judge: Callable[[Schema], Schema]) -> Any:
    return _followed_parts(schema, judge) if isinstance(schema, dict) else schema


def _followed_parts(schema: Schema, judge: Callable[[Schema], Schema]) -> Schema:
    kept = {name: value for name, value in schema.items() if value is not None or name in NULL_IS_A_VALUE}
    for name, value in kept.items():
        if name in SCHEMA_MAPS and isinstance(value, dict):
            kept[name] = {key: _followed(part, judge) for key, part in value.items()}
        elif name in SCHEMA_LISTS and isinstance(value, list):
            kept[name] = [_followed(part, judge) for part in value]
        elif name in SCHEMAS:
            kept[name] = _followed(value, judge)
    for step in (_without_idle, _with_conditions, _in_new_words, _with_names, _with_pattern_names, judge, _bound):
        kept = step(kept)
    return kept


# Keywords without effect -------------------------------------------------------------------------


def _says_nothing(schema: Any) -> bool:
    """Return True if every value is seen to satisfy the schema."""
    return schema is True or (isinstance(schema, dict) and not set(schema) - ANNOTATIONS)


def _says_nothing_of_names(schema: Any) -> bool:
    types = schema.get("type") if isinstance(schema, dict) else None
    named = types == "string" or (isinstance(types, list) and "string" in types)
    return _says_nothing({key: schema[key] for key in schema if key != "type"}) if named else _says_nothing(schema)


def _is_impossible(schema: Any) -> bool:
    """Return True if no value is seen to satisfy the schema."""
    return schema is False or (
        isinstance(schema, dict) and (_says_nothing(schema.get("not", False)) or schema.get("enum") == [])
    )


def _all_idle(value: Any, idle: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(idle, value.values()))


def _is_idle(name: str, value: Any, schema: Schema) -> bool:
    """Return True if a keyword excludes no value."""
    if name == "uniqueItems":
        return value is False
    if name == "not":
        return _is_impossible(value)
    if name == "propertyNames":
        return _says_nothing_of_names(value)
    if name in ("unevaluatedItems", "unevaluatedProperties"):
        return _says_nothing(value)
    if name == "dependentRequired":
        return _all_idle(value, lambda names: names == [])
    if name in ("dependentSchemas", "dependencies"):
        return _all_idle(value, lambda part: part == [] or _says_nothing(part))
    if name in ("minContains", "maxContains"):
        return "contains" not in schema
    if name in ("then", "else"):
        return "if" not in schema
    if name == "$schema":
        return not isinstance(value, str) or not DRAFTS.fullmatch(value)
    return name == "format" and isinstance(value, str) and value not in KNOWN_FORMATS


def _without_idle(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if not _is_idle(name, value, schema)}


def _with_conditions(schema: Schema) -> Schema:
    """Replace a condition that decides nothing by its one outcome."""
    if "if" not in schema:
        return schema
    kept = {name: value for name, value in schema.items() if name not in ("if", "then", "else")}
    met, unmet = schema.get("then", True), schema.get("else", True)
    outcome = met if _says_nothing(schema["if"]) else unmet if _is_impossible(schema["if"]) else None
    if outcome is None and not (_says_nothing(met) and _says_nothing(unmet)):
        return schema
    if outcome is None or _says_nothing(outcome):
        return kept
    return {**kept, "allOf": [*kept.get("allOf", ()), outcome]}


def _in_new_words(schema: Schema) -> Schema:
    """Rewrite draft 4's exclusive bounds, and closed objects, in newer keywords."""
    kept = dict(schema)
    for bound in ("minimum", "maximum"):
        exclusive = "exclusive" + bound.capitalize()
        if not isinstance(kept.get(exclusive), bool):
            continue
        if kept.pop(exclusive) and bound in kept:
            kept[exclusive] = kept.pop(bound)
    if kept.get("unevaluatedProperties") is False and not any(name in kept for name in IN_PLACE):
        kept.pop("unevaluatedProperties")
        kept.setdefault("additionalProperties", False)
    return kept


# Names -------------------------------------------------------------------------------------------


def _with_names(schema: Schema) -> Schema:
    """Declare an object's listed possible names as properties, without those that can never be written.

    A property that can never be written becomes `false`, which llguidance leaves out.
    """
    kept = dict(schema)
    if isinstance(properties := kept.get("properties"), dict):
        kept["properties"] = {name: False if _is_impossible(part) else part for name, part in properties.items()}
    names = _listed_names(kept.get("propertyNames"))
    declared, others = kept.get("properties", {}), kept.get("additionalProperties", True)
    if names is None or "patternProperties" in kept or not isinstance(declared, dict) or not _fits(others, len(names)):
        return kept
    kept.pop("propertyNames")
    possible = {name: part if name in names else False for name, part in declared.items()}
    kept["properties"] = possible | {name: others for name in names if name not in declared}
    kept["additionalProperties"] = False
    return kept


def _fits(part: Any, copies: int) -> bool:
    """Return True if a part may be copied that often: copies within copies would multiply."""
    return copies == 1 or len(json.dumps(part)) * copies <= MAX_COPIED


def _listed_names(schema: Any) -> dict[str, None] | None:
    """Return the names of `propertyNames` in order, if it is a list of names."""
    if not isinstance(schema, dict) or set(schema) - ANNOTATIONS - {"type", "enum", "const"}:
        return None
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(listed, list) or {"const", "enum"} <= set(schema) or schema.get("type", "string") != "string":
        return None
    return dict.fromkeys(name for name in listed if isinstance(name, str))


def _with_pattern_names(schema: Schema) -> Schema:
    """Replace patterns that match only a few names by those names.

    When a pattern has only declared names left, llguidance would allow a comma for another: a dead end.
    """
    patterns, properties = schema.get("patternProperties"), schema.get("properties", {})
    if not isinstance(patterns, dict) or not isinstance(properties, dict):
        return schema
    named, rest = dict(properties), {}
    most = max(MAX_WORDS, len(properties) + len(_named(schema.get("required"))))
    for pattern, part in patterns.items():
        words = finite_language(pattern, most)
        if words is None or not _fits(part, len(words)):
            rest[pattern] = part
            continue
        for name in words:
            both = [each for each in (named.get(name, True), part) if each is not True]
            named[name] = True if not both else both[0] if len(both) == 1 else _both(*both)
    if len(rest) == len(patterns):
        return schema
    kept = {**schema, "properties": named, "patternProperties": rest}
    return kept if rest else {name: value for name, value in kept.items() if name != "patternProperties"}


def _may_run_out(schema: Schema) -> bool:
    """Return True if an object could use up all its possible names: then a comma is a dead end."""
    patterns, others = schema.get("patternProperties"), schema.get("additionalProperties", True)
    if not isinstance(patterns, dict) or not patterns or not _is_impossible(others):
        return False
    properties, required = schema.get("properties", {}), schema.get("required", ())
    names = {*_named(properties), *_named(required)}
    possible = [pattern for pattern, part in patterns.items() if not _is_impossible(part)]
    return bool(names) and not any(matches_more(pattern, len(names)) for pattern in possible)


def _named(value: Any) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, dict | list) else set()


def _both(one: Any, other: Any) -> Any:
    if one == other:
        return one
    return False if False in (one, other) else {"allOf": [one, other]}


# Numbers -----------------------------------------------------------------------------------------


def _exact(schema: Schema) -> Schema:
    """Return the schema itself; raises GrammarError for a number that llguidance rounds or cannot use as a bound."""
    for name in BOUNDS:
        if name in schema and not _is_exact_bound(name, schema):
            raise GrammarError(
                f"the JSON schema's {name} {str(schema[name])[:40]} cannot be kept exactly: bounds lie within 2^53, "
                "further off only where a 64-bit float is exact, and within 2^62; choose another, or use a string."
            )
    if _may_run_out(schema):
        patterns = ", ".join(map(repr, schema["patternProperties"]))[:100]
        raise GrammarError(
            f"the JSON schema's patternProperties {patterns} may leave no name beside those of properties and "
            "required; list their names in properties, or write them with ^, $, sets of characters and repetitions."
        )
    least, required = schema.get("minProperties"), _named(schema.get("required"))
    if type(least) is int and least > 1 + len(required):  # one more name is distinct; of several, some may be equal
        raise GrammarError(
            f"the JSON schema's minProperties {least} cannot be kept: a name may be written twice; list all but one of "
            "them in required, or leave it out."
        )
    for name in ("const", "enum"):
        if name in schema and (number := _rounded_number(schema[name])) is not None:
            raise GrammarError(
                f"the JSON schema's {name} holds {str(number)[:40]}, which is beyond 2^53 and would be rounded; use a "
                "string."
            )
    return schema


def _is_exact_bound(name: str, schema: Schema) -> bool:
    value = schema[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True  # not a number: refused elsewhere
    if schema.get("type") == "integer" and (name, value) in (("maximum", 2**63 - 1), ("exclusiveMaximum", 2**63)):
        return True  # the largest of 64 bits, to which a larger one is rounded down
    return value == 0 or (LEAST_BOUND <= abs(value) <= MAX_BOUND and _is_exact(value))


def _is_exact(value: float) -> bool:
    return (
        isinstance(value, float) or abs(value) <= MAX_EXACT or (abs(value) <= MAX_BOUND and int(float(value)) == value)
    )


def _rounded_number(value: Any) -> int | None:
    """Return an integer anywhere in the value that a float cannot hold."""
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            rest += each.values()
        elif isinstance(each, list):
            rest += each
        elif isinstance(each, int) and not _is_exact(each):
            return each
    return None


# Loosely -----------------------------------------------------------------------------------------


def _loosened(schema: Schema) -> Schema:
    """Return a part without what llguidance does not support, or what is not JSON Schema."""
    kept = {
        name: _formed_entries(value) if name in SCHEMA_MAPS else value
        for name, value in schema.items()
        if name not in NOT_FOLLOWED and _is_formed(name, value)
    }
    kept = {name: value for name, value in kept.items() if name not in BOUNDS or _is_exact_bound(name, kept)}
    if "oneOf" in kept:
        kept["allOf"] = [*kept.get("allOf", ()), {"anyOf": kept.pop("oneOf")}]
    for name in ("const", "enum"):
        if name in kept and _rounded_number(kept[name]) is not None:
            values = kept.pop(name) if name == "enum" else [kept.pop(name)]
            if all(type(value) is int for value in values):
                kept.setdefault("type", "integer")
    return _with_open_names(_without_unknown_types(kept))


def _without_unknown_types(schema: Schema) -> Schema:
    types = schema.get("type")
    listed = types if isinstance(types, list) else [types]
    if types is None or all(isinstance(each, str) and each in TYPES for each in listed):
        return schema
    return {name: value for name, value in schema.items() if name != "type"}


def _with_open_names(schema: Schema) -> Schema:
    """Drop name patterns that are not regular; any other name may then match one of them."""
    kept = dict(schema)
    patterns = kept.get("patternProperties")
    if patterns and any(map(BEYOND_REGEX.search, patterns)):
        kept["patternProperties"] = {key: part for key, part in patterns.items() if not BEYOND_REGEX.search(key)}
        kept["additionalProperties"] = True
    if _may_run_out(kept):
        kept["additionalProperties"] = True
    optional = set(kept.get("properties", ())) - set(kept.get("required", ()))
    if optional:  # the number of properties is enforced only if all are required
        kept.pop("minProperties", None)
        kept.pop("maxProperties", None)
    return kept


def _formed_entries(parts: Mapping[str, Any]) -> Schema:
    return {name: part if isinstance(part, dict | bool) else True for name, part in parts.items()}


def _is_formed(name: str, value: Any) -> bool:
    """Return True if a keyword's value has the form that JSON Schema requires."""
    if name in SCHEMA_MAPS:
        return isinstance(value, dict)
    if name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        return isinstance(value, list) and bool(value) and all(isinstance(part, dict | bool) for part in value)
    if name == "items" and isinstance(value, list):
        return all(isinstance(part, dict | bool) for part in value)
    if name in SCHEMAS:
        return isinstance(value, dict | bool)
    if name in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"):
        return type(value) is int and value >= 0
    if name in (*BOUNDS, "multipleOf"):
        return isinstance(value, int | float) and not isinstance(value, bool) and (name in BOUNDS or value > 0)
    if name == "pattern":
        return isinstance(value, str) and not BEYOND_REGEX.search(value)
    if name == "required":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if name == "enum":
        return isinstance(value, list) and bool(value)
    return name not in ("format", "$ref", "$id", "$anchor") or isinstance(value, str)


# Limits ------------------------------------------------------------------------------------------


def _bound(schema: Schema) -> Schema:
    """Add default limits to strings and arrays without any, so that repetition ends."""
    types = schema.get("type")
    listed: Sequence[Any] = types if isinstance(types, list) else [types]
    made = dict(schema)
    if "string" in listed and not {"maxLength", "minLength", "enum", "const", "pattern"} & set(schema):
        length = DEFAULT_MAX_OF_FORMATS.get(str(schema["format"])) if "format" in schema else DEFAULT_MAX_LENGTH
        made |= {} if length is None else {"maxLength": length}
    if "array" in listed and not {"maxItems", "minItems", "enum", "const"} & set(schema):
        made["maxItems"] = DEFAULT_MAX_ITEMS
    return made
