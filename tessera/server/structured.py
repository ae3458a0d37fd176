"""What a request says a reply must look like, in one of three vocabularies, as the engine's one Grammar.

OpenAI's `response_format`, vLLM's `structured_outputs`, and the older `guided_*` fields, which vLLM
has dropped without a word and which are still sent.
"""

from __future__ import annotations

import json
from typing import Any

from tessera.chat import Grammar
from tessera.server.errors import BadRequestError
from tessera.server.schemas import ChatRequest, ResponseFormat, ResponsesRequest, Sampling, TextFormat

DEPRECATED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


def grammar_of(request: Sampling) -> Grammar | None:
    """The grammar, if any is asked for; raises BadRequestError where two are."""
    asked = {name: _wanted(name.removeprefix("guided_"), getattr(request, name)) for name in DEPRECATED}
    if request.structured_outputs is not None:
        for name, value in request.structured_outputs:
            asked[f"structured_outputs.{name.rstrip('_')}"] = _wanted(name.rstrip("_"), value)
    if isinstance(request, ChatRequest):
        asked["response_format"] = _chat_format(request.response_format)
    if isinstance(request, ResponsesRequest) and request.text is not None:
        asked["text.format"] = _text_format(request.text.format)
    found = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(found) > 1:
        raise BadRequestError(
            f"{' and '.join(found)} each say what the reply must look like; keep one.", param=list(found)[1]
        )
    return next(iter(found.values()), None)


def uses_deprecated(request: Sampling) -> bool:
    return any(getattr(request, name) is not None for name in DEPRECATED)


def _chat_format(wanted: ResponseFormat | None) -> Grammar | None:
    schema = wanted.json_schema.schema_ if wanted is not None and wanted.json_schema is not None else None
    return _format("response_format.json_schema.schema", wanted.type if wanted else "text", schema)


def _text_format(wanted: TextFormat | None) -> Grammar | None:
    return _format("text.format.schema", wanted.type if wanted else "text", wanted.schema_ if wanted else None)


def _format(where: str, kind: str, schema: dict[str, Any] | None) -> Grammar | None:
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar("json_object")
    if schema is None:
        raise BadRequestError(f"{where} is required with the type json_schema.", param=where)
    return Grammar("json_schema", json.dumps(schema))


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
