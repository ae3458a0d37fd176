"""Structured output: every API's way to constrain a reply, read into the engine's one Grammar.

OpenAI's `response_format`, Anthropic's `output_config.format`, vLLM's `structured_outputs`, the older `guided_*`
fields, which vLLM has dropped silently but clients still send, and the top-level fields of llama.cpp,
Ollama, SGLang and TGI.
"""

from __future__ import annotations

import json
from typing import Any

from tessera.sampling import Grammar
from tessera.server.errors import BadRequestError
from tessera.server.presets import grammar_of_preset, preset_of
from tessera.server.schemas import (
    ChatRequest,
    JsonSchemaFormat,
    MessagesRequest,
    ResponseFormat,
    ResponsesRequest,
    Sampling,
    StructuredOutputs,
    TypedGrammar,
)

DEPRECATED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
WRAPPING = {"name", "description", "schema", "strict"}  # OpenAI's keys around a schema


def grammar_of(request: Sampling) -> Grammar | None:
    """Return the requested grammar, if any; raises BadRequestError if there are two."""
    asked = {name: _wanted(name.removeprefix("guided_"), getattr(request, name)) for name in DEPRECATED}
    asked |= {
        name: _wanted("grammar" if name == "ebnf" else name, getattr(request, name)) for name in ("regex", "ebnf")
    }
    asked |= {"json_schema": _wanted("json", _unwrapped(request.json_schema)), "format": _ollama(request.format)}
    asked["grammar"] = _typed(request.grammar)
    for field in ("structured_outputs", "guided_decoding"):
        asked |= _parts(field, getattr(request, field))
    if isinstance(request, ChatRequest | ResponsesRequest):
        asked["preset"] = _of_preset(request)
    if isinstance(request, ChatRequest):
        asked["response_format"] = _format("response_format", request.response_format)
    if isinstance(request, ResponsesRequest) and request.text is not None:
        asked["text.format"] = _format("text.format", request.text.format)
    if isinstance(request, MessagesRequest):
        asked["output_config.format"] = _anthropic("output_config.format", (request.output_config or {}).get("format"))
        asked["output_format"] = _anthropic("output_format", request.output_format)
    found = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(found) > 1:
        raise BadRequestError(
            f"{' and '.join(found)} each say what the reply must look like; keep one.", param=list(found)[1]
        )
    return next(iter(found.values()), None)


def _of_preset(request: ChatRequest | ResponsesRequest) -> Grammar | None:
    """The form of a preset's replies; raises BadRequestError beside a format that asks for plain text."""
    grammar = grammar_of_preset(preset_of(request.preset))
    given: JsonSchemaFormat | None
    if isinstance(request, ChatRequest):
        where, given = "response_format", request.response_format
    else:
        where, given = "text.format", request.text.format if request.text else None
    if grammar is not None and given is not None and getattr(given, "type", None) == "text":
        raise BadRequestError(f"preset and {where} each say what the reply must look like; keep one.", param=where)
    return grammar


def uses_deprecated(request: Sampling) -> bool:
    return any(getattr(request, name) is not None for name in DEPRECATED)


def _parts(field: str, wanted: StructuredOutputs | None) -> dict[str, Grammar | None]:
    names = [name.rstrip("_") for name, _ in wanted or ()]
    return {f"{field}.{name}": _wanted(name, value) for name, (_, value) in zip(names, wanted or (), strict=True)}


def _unwrapped(schema: Any) -> Any:
    """Return a schema, without OpenAI's wrapping if it has one."""
    is_wrapped = isinstance(schema, dict) and isinstance(schema.get("schema"), dict) and set(schema) <= WRAPPING
    return schema["schema"] if is_wrapped else schema


def _anthropic(where: str, wanted: Any) -> Grammar | None:
    """Read `output_config.format`, or the older `output_format`."""
    if wanted is None:
        return None
    schema = wanted.get("schema") if isinstance(wanted, dict) and wanted.get("type") == "json_schema" else None
    if not isinstance(schema, dict):
        raise BadRequestError(f"{where} must be of type json_schema, with an object as schema.", param=where)
    return _wanted("json", schema)


def _ollama(wanted: str | dict[str, Any] | None) -> Grammar | None:
    if wanted == "":
        return None
    return _wanted("json_object", True) if wanted == "json" else _wanted("json", wanted)


def _typed(wanted: str | TypedGrammar | None) -> Grammar | None:
    if not isinstance(wanted, TypedGrammar):
        return _wanted("grammar", wanted)
    if wanted.type == "regex":
        return _text_of("grammar.value", "regex", wanted.value)
    return _wanted("json_object", True) if wanted.value is None else _wanted("json", _unwrapped(wanted.value))


def _text_of(where: str, kind: str, value: Any) -> Grammar:
    if not isinstance(value, str):
        raise BadRequestError(f"{where} must be a string with the type {kind}.", param=where)
    return Grammar("regex" if kind == "regex" else "lark", value)


def _format(where: str, wanted: JsonSchemaFormat | None) -> Grammar | None:
    """Read an object with a type and the fields it needs; fields that contradict the type are refused."""
    if wanted is None:
        return None
    told = {name.rstrip("_"): value for name, value in wanted if value is not None}
    kind = told.pop("type")
    schemas = _schemas(where, wanted, told if kind != "regex" else {})
    needed = {"regex": ("pattern", "value"), "grammar": ("grammar",)}.get(kind, ())
    for name in ("pattern", "grammar"):
        if name in told and name not in needed:
            raise BadRequestError(f"{where}.{name} cannot be combined with the type {kind}.", param=f"{where}.{name}")
    if needed:
        value = next((told[name] for name in needed if name in told), None)
        _none_beside(where, kind, schemas)
        return _text_of(f"{where}.{needed[0]}", kind, value)
    if kind == "text":
        _none_beside(where, kind, schemas)
        return None
    if len(schemas) > 1:
        raise BadRequestError(f"{' and '.join(schemas)} are two schemas; keep one.", param=list(schemas)[1])
    if schemas:
        return _wanted("json", next(iter(schemas.values())))
    if kind == "json_schema":
        name = f"{where}.json_schema.schema" if isinstance(wanted, ResponseFormat) else f"{where}.schema"
        raise BadRequestError(f"{name} is required with the type json_schema.", param=name)
    return Grammar("json_object")


def _schemas(where: str, wanted: JsonSchemaFormat, told: dict[str, Any]) -> dict[str, Any]:
    """Collect the given schemas, anywhere in the object, by path."""
    found = {"schema": told.get("schema"), "value": told.get("value")}
    if isinstance(wanted, ResponseFormat) and wanted.json_schema is not None:
        found["json_schema.schema"] = wanted.json_schema.schema_
    return {f"{where}.{name}": schema for name, schema in found.items() if schema is not None}


def _none_beside(where: str, kind: str, schemas: dict[str, Any]) -> None:
    if schemas:
        name = next(iter(schemas))
        raise BadRequestError(f"{name} cannot be combined with the type {kind}; use json_schema.", param=name)


def _wanted(kind: str, value: Any) -> Grammar | None:
    if value is None or value is False:
        return None
    if kind == "json_object":
        return Grammar("json_object")
    if kind == "json":
        return Grammar("json_schema", value if isinstance(value, str) else json.dumps(value))
    if kind == "choice":
        return Grammar("choice", json.dumps(value))
    return Grammar("regex" if kind == "regex" else "lark", value)
