"""Aliases for request fields: other servers' names, mapped to ours where the meaning is the same.

Known are the names of llama.cpp, Ollama, SGLang, TGI and transformers, and `extra_body`, which OpenAI's
client unpacks and custom code sends as is. Two names for one field must agree.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from tessera.server.errors import BadRequestError

# Their name to ours; a name that the route itself has is left alone.
SAME = {
    "max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens", "num_predict": "max_tokens", "min_new_tokens": "min_tokens",
    "repeat_penalty": "repetition_penalty", "stop_sequences": "stop", "random_seed": "seed",
}  # fmt: skip


def in_our_words(values: Mapping[str, Any], fields: Container[str]) -> dict[str, Any]:
    """Rename a body's fields to ours, given the route's `fields`; raises BadRequestError."""
    told = dict(values)
    extra = told.pop("extra_body", None)
    if not isinstance(extra, Mapping | None):
        raise BadRequestError("extra_body must be an object.", param="extra_body")
    for name, value in (extra or {}).items():
        _put(told, f"extra_body.{name[:64]}", name, value)
    for other, own in SAME.items():
        if other in told and other not in fields and own in fields:
            _put(told, other, own, told.pop(other))
        elif other in fields and own in fields:  # the route accepts both
            _check_agreement(told, other, own, told.get(other))
    return told


def _put(told: dict[str, Any], other: str, own: str, value: Any) -> None:
    if value is None:
        return
    if told.get(own) is None:
        told[own] = value
    _check_agreement(told, other, own, value)


def _check_agreement(told: Mapping[str, Any], other: str, own: str, value: Any) -> None:
    if value is not None and told.get(own) not in (None, value):
        raise BadRequestError(f"{other} and {own} mean the same and differ; keep one.", param=other)
