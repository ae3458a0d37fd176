"""Schemas of records: read from a file, a pydantic class, a mapping or a preset, and made fit for extraction.

A schema is given as a person writes it. Its `wire` form is what the grammar enforces: every property is required,
leaves may be null, and numbers, amounts and dates are copied as printed; `values` gives them their type later. So
a model is never forced to invent a value, and never asked to convert one.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from tessera.errors import UsageError, shown

Kind = Literal["text", "number", "integer", "date", "amount", "enum", "boolean"]
KINDS = get_args(Kind)
MAX_DEPTH, MAX_LEAVES, MAX_FILE_BYTES = 8, 500, 1_000_000
MAX_PARTS = 50_000  # keywords and values, with references written out
MAX_ITEMS = 500  # of a list without its own limit
COPIED = {"type": ["string", "number", "null"]}  # as printed: "1.234,50 EUR", or 12.50
# Keywords of a text or list that the grammar can keep.
KEPT = ("pattern", "minLength", "maxLength", "minItems", "maxItems")
PLAIN_TEXT: Mapping[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}}


@dataclass(frozen=True)
class Leaf:
    """One value of a schema; its path names lists without an index: "items[].amount"."""

    path: str
    kind: Kind
    nullable: bool = True
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Schema:
    """A schema as given, as the grammar enforces it, and as leaves. With `plain`, the reply is one text, not JSON."""

    name: str
    given: Mapping[str, Any]
    wire: Mapping[str, Any]
    leaves: tuple[Leaf, ...]
    plain: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.wire["properties"])

    @property
    def lists(self) -> tuple[str, ...]:
        """Paths of the lists of objects, such as "items"."""
        found = (leaf.path.partition("[].")[0] for leaf in self.leaves if "[]." in leaf.path)
        return tuple(dict.fromkeys(found))

    def leaf(self, path: str) -> Leaf | None:
        """Return the leaf of a field's path: "items[2].amount" is "items[].amount"."""
        wanted = re.sub(r"\[\d+\]", "[]", path)
        return next((leaf for leaf in self.leaves if leaf.path == wanted), None)


def read_schema(given: str | Path | Mapping[str, Any] | type, *, strict_nulls: bool = False) -> Schema:
    """Read a schema: a JSON file, `module:Model`, a pydantic class or a mapping. Raises UsageError.

    Presets are opened by `presets.open_preset`. With `strict_nulls` only leaves that say so may be null.
    """
    if isinstance(given, Mapping):
        return make_schema("schema", given, strict_nulls=strict_nulls)
    if isinstance(given, type):
        return make_schema(given.__name__, _of_class(given), strict_nulls=strict_nulls)
    text = str(given)
    if ":" in text and not Path(text).exists():
        model = _imported(text)
        return make_schema(model.__name__, _of_class(model), strict_nulls=strict_nulls)
    return make_schema(Path(text).stem, _of_file(Path(text)), strict_nulls=strict_nulls)


def make_schema(name: str, given: Mapping[str, Any], *, strict_nulls: bool = False) -> Schema:
    """Check a JSON schema and derive its wire form and leaves; raises UsageError that names the property."""
    whole = _inlined(given, given, 0, itertools.count())
    if whole.get("type", "object") != "object" or not isinstance(whole.get("properties"), Mapping):
        raise UsageError(
            f"the schema {name} must describe an object with properties, not {shown(whole.get('type', 'anything'))}; "
            'put a list into one: {"type": "object", "properties": {"rows": {"type": "array", ...}}}.'
        )
    leaves: list[Leaf] = []
    wire = _wire("", whole, leaves, strict_nulls)
    if not leaves:
        raise UsageError(f"the schema {name} has no values; give it properties.")
    if len(leaves) > MAX_LEAVES:
        raise UsageError(f"the schema {name} has {len(leaves)} values; at most {MAX_LEAVES} are possible.")
    return Schema(name, given, wire, tuple(leaves))


def plain_text(name: str) -> Schema:
    """The schema of a reply that is one text rather than JSON."""
    return Schema(name, PLAIN_TEXT, PLAIN_TEXT, (Leaf("text", "text", nullable=False),), plain=True)


def _of_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UsageError(f"no schema at {path}; give a JSON file, module:Model, or preset:NAME (`tessera presets`).")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"the schema {path} has more than {MAX_FILE_BYTES:,} bytes; give a smaller one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin it with a mark
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds {shown(content)}; a JSON schema is an object.")
    return content


def _imported(text: str) -> type:
    """Import `module:Model`, from the working directory too."""
    module, _, name = text.partition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise UsageError(f"{shown(text)} names no schema; give a JSON file, module:Model, or preset:NAME.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # the module is the user's own, and may fail in any way
        raise UsageError(f"{module} cannot be imported from {here}: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(here)
    if not isinstance(found, type):
        raise UsageError(f"{module} has no class {name}; name a pydantic model in it.")
    return found


def _of_class(model: type) -> Mapping[str, Any]:
    from pydantic import BaseModel, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        if issubclass(model, BaseModel):
            return model.model_json_schema()
        return TypeAdapter(model).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UsageError(
            f"{model.__name__} has no JSON schema ({str(error).splitlines()[0]}); give a pydantic model."
        ) from error


def _inlined(part: Any, root: Mapping[str, Any], depth: int, count: Iterator[int]) -> Any:
    """Replace references by what they name; raises UsageError for those that are nested in themselves."""
    if depth > 4 * MAX_DEPTH:
        raise UsageError(f"the schema is nested more than {MAX_DEPTH} deep, or in itself; flatten it.")
    if next(count) > MAX_PARTS:
        raise UsageError(f"the schema has more than {MAX_PARTS:,} parts when its references are written out.")
    if isinstance(part, list):
        return [_inlined(each, root, depth + 1, count) for each in part]
    if not isinstance(part, Mapping):
        return part
    if isinstance(reference := part.get("$ref"), str):
        target: Any = root
        for name in reference.removeprefix("#/").split("/"):
            target = target.get(name) if isinstance(target, Mapping) else None
        if not reference.startswith("#/") or not isinstance(target, Mapping):
            raise UsageError(f"the schema's reference {shown(reference)} leads nowhere; it must start with #/.")
        part = {**target, **{key: value for key, value in part.items() if key != "$ref"}}
        return _inlined(part, root, depth + 1, count)
    whole = {}
    for key, value in part.items():
        if key == "properties" and isinstance(value, Mapping):  # these may have any name
            whole[key] = {name: _inlined(each, root, depth + 2, count) for name, each in value.items()}
        elif key not in ("$defs", "definitions"):
            whole[key] = _inlined(value, root, depth + 1, count)
    parts = whole.pop("allOf", None)
    return whole if not isinstance(parts, list) else _merged([*parts, whole])


def _merged(parts: list[Any]) -> dict[str, Any]:
    """The parts of an `allOf` as one: what the last says counts, and properties are put together."""
    whole: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Mapping):
            both = [each["properties"] for each in (whole, part) if isinstance(each.get("properties"), Mapping)]
            whole |= {**part, "properties": {**both[0], **both[-1]}} if both else part
    return whole


def _wire(path: str, part: Any, leaves: list[Leaf], strict: bool) -> dict[str, Any]:
    """Return the enforced form of one part, and add its leaves to the list."""
    if not isinstance(part, Mapping):
        raise UsageError(f"{path or 'the schema'} is described by {shown(part)}; a schema is an object.")
    part, is_nullable = _without_null(path, part)
    if path.count(".") + path.count("[]") > MAX_DEPTH:
        raise UsageError(f"{path} is nested more than {MAX_DEPTH} deep; flatten the schema.")
    kind = part.get("type")
    if "properties" in part or kind == "object":
        return _wire_object(path, part, leaves, strict)
    if kind == "array" or "items" in part:
        if not isinstance(part.get("items"), Mapping):
            raise UsageError(f"{path} is a list of anything; describe its `items`.")
        inner = _wire(f"{path}[]", part["items"], leaves, strict)
        return {"type": "array", "items": inner, "maxItems": MAX_ITEMS} | _kept(part)
    leaf = _leaf(path, part, is_nullable or not strict)
    leaves.append(leaf)
    return _wire_leaf(leaf, part)


def _wire_object(path: str, part: Mapping[str, Any], leaves: list[Leaf], strict: bool) -> dict[str, Any]:
    properties = part.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise UsageError(
            f"{path or 'the schema'} is an object of any keys; name its properties, or make it a list of "
            '{"key", "value"}.'
        )
    for name in properties:
        if not isinstance(name, str):
            raise UsageError(f"a property's name is {name!r}, which is no text; write it in quotes, as YAML's `no`.")
        if not re.fullmatch(r"[^.\[\]\"\s][^.\[\]\"]*", name):
            raise UsageError(
                f"the property {shown(name)} cannot be part of a path; leave out dots, brackets and quotes."
            )
    inner = {name: _wire(f"{path}.{name}" if path else name, each, leaves, strict) for name, each in properties.items()}
    return {"type": "object", "properties": inner, "required": list(inner), "additionalProperties": False}


def _without_null(path: str, part: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return what a part is when it is not null, and whether it may be null."""
    choices = part.get("anyOf") or part.get("oneOf")
    rest = {key: value for key, value in part.items() if key not in ("anyOf", "oneOf")}
    if isinstance(choices, list):
        some = [each for each in choices if isinstance(each, Mapping) and each.get("type") != "null"]
        if len(some) == 1:
            return {**rest, **some[0]}, len(some) < len(choices)
        if any(each.get("type") in ("object", "array") or "properties" in each for each in some):
            raise UsageError(f"{path} may be one of several objects; describe one, with what it lacks as null.")
        kinds = {str(each.get("type", "string")) for each in some}
        # Decimal numbers are described by pydantic as a number or a text of digits.
        return {**rest, "type": "number" if "number" in kinds else "string"}, len(some) < len(choices)
    if isinstance(types := part.get("type"), list):
        some_types = [each for each in types if each != "null"]
        wanted = some_types[0] if len(some_types) == 1 else "number" if "number" in some_types else "string"
        return {**part, "type": wanted}, "null" in types
    return part, None in (part.get("enum") or ())


def _leaf(path: str, part: Mapping[str, Any], nullable: bool) -> Leaf:
    choices = part.get("enum") if "const" not in part else [part["const"]]
    if choices is not None and (not isinstance(choices, list) or not choices or len(choices) > 500):
        raise UsageError(f"the enum of {path} must list 1 to 500 values, not {shown(choices)}.")
    if any(isinstance(each, list | Mapping) for each in choices or ()):
        raise UsageError(f"the enum of {path} lists objects or lists; list texts or numbers.")
    kind = part.get("x-kind") or _kind_of(part, choices)
    if kind not in KINDS:
        raise UsageError(f"{path} has the type {shown(kind)}; use string, number, integer or boolean.")
    for name in ("minimum", "maximum"):
        if not isinstance(part.get(name, 0), int | float):
            raise UsageError(f"the {name} of {path} must be a number, not {shown(part[name])}.")
    low, high = part.get("minimum"), part.get("maximum")
    return Leaf(path, cast(Kind, kind), nullable, tuple(each for each in choices or () if each is not None), low, high)


def _kind_of(part: Mapping[str, Any], choices: list[Any] | None) -> str:
    if choices is not None:
        return "enum"
    if part.get("format") in ("date", "amount"):
        return str(part["format"])
    kind = part.get("type", "string")
    return "text" if kind == "string" else str(kind)


def _wire_leaf(leaf: Leaf, part: Mapping[str, Any]) -> dict[str, Any]:
    if leaf.kind == "enum":
        return {"enum": [*leaf.choices, *([None] if leaf.nullable else [])]}
    if leaf.kind in ("number", "integer", "amount", "date"):
        types = ["string"] if leaf.kind == "date" else COPIED["type"][:2]
    else:
        types = ["boolean" if leaf.kind == "boolean" else "string"]
    types = [*types, *(["null"] if leaf.nullable else [])]
    return {"type": types[0] if len(types) == 1 else types} | (_kept(part) if leaf.kind == "text" else {})


def _kept(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part[name] for name in KEPT if name in part}


def paths_in(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a value with its path: ("items[2].amount", 3.5)."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from paths_in(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_in(inner, f"{path}[{index}]")
    else:
        yield path, value
