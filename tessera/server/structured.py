"""What a request says a reply must look like, in one of three vocabularies, as the engine's one Grammar.

OpenAI's `response_format`, vLLM's `structured_outputs`, and the older `guided_*` fields, which vLLM
has dropped without a word and which are still sent.
"""

from __future__ import annotations

import json
from typing import Any

from tessera.chat import Grammar
from tessera.server.errors import BadRequestError
from tessera.server.schemas import ChatRequest, ResponseFormat, Sampling

DEPRECATED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


def grammar_of(request: Sampling) -> Grammar | None:
    """The grammar, if any is asked for; raises BadRequestError where two are."""
    asked = {name: _wanted(name.removeprefix("guided_"), getattr(request, name)) for name in DEPRECATED}
    if request.structured_outputs is not None:
        for name, value in request.structured_outputs:
            asked[f"structured_outputs.{name.rstrip('_')}"] = _wanted(name.rstrip("_"), value)
    if isinstance(request, ChatRequest):
        asked["response_format"] = format_grammar(request.response_format)
    found = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(found) > 1:
        raise BadRequestError(
            f"{' and '.join(found)} each say what the reply must look like; keep one.", param=list(found)[1]
        )
    return next(iter(found.values()), None)


def uses_deprecated(request: Sampling) -> bool:
    return any(getattr(request, name) is not None for name in DEPRECATED)


def format_grammar(wanted: ResponseFormat | None) -> Grammar | None:
    """OpenAI's form of it; raises BadRequestError for a json_schema without a schema."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Grammar("json_object")
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise BadRequestError(
            "response_format.json_schema.schema is required with the type json_schema.",
            param="response_format.json_schema.schema",
        )
    return Grammar("json_schema", json.dumps(wanted.json_schema.schema_))


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
