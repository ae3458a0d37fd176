"""What one reply about some pages says: its values typed, each with its evidence, as the journal keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tessera.chat import Completion, Usage
from tessera.documents.journal_file import storable
from tessera.documents.page import Page
from tessera.documents.record import Field
from tessera.documents.repeats import completed, parsed
from tessera.documents.schemas import Schema
from tessera.documents.spans import is_wrapped
from tessera.documents.stored import field_object, field_of
from tessera.documents.values import UnreadableError, typed


@dataclass(frozen=True)
class Answer:
    """A reply's value and fields; `problem` says what is wrong with the best reply that there was.

    `wrapped` says that there was more than JSON in it, such as a fence or words.
    """

    pages: tuple[int, ...]
    value: Mapping[str, Any]
    fields: Mapping[str, Field]
    problem: str | None = None
    wrapped: bool = False
    retried: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)

    @property
    def review(self) -> bool:
        return self.problem is not None or any(each.review for each in self.fields.values())

    def to_json(self) -> str:
        fields = [field_object(each) for each in self.fields.values()]
        told: dict[str, Any] = {"pages": self.pages, "value": self.value, "fields": fields, "problem": self.problem}
        told |= {"wrapped": True} if self.wrapped else {}
        counts = {"retried": self.retried, "seconds": round(self.seconds, 3), "usage": asdict(self.usage)}
        return storable(json.dumps(told | counts, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Answer:
        fields = {each["path"]: field_of(each) for each in told["fields"]}
        usage = Usage(**told["usage"])
        return cls(**{**told, "pages": tuple(told["pages"]), "fields": fields, "usage": usage})


def answer_of(reply: Completion, pages: Sequence[Page], schema: Schema, judged: Mapping[str, Field]) -> Answer:
    """Read a reply about these pages; `judged` is the evidence of its leaves."""
    numbers = tuple(page.number for page in pages)
    if schema.plain:
        text = unfenced(reply.text)
        known = [entry.logprob for entry in reply.logprobs if entry.logprob is not None]
        score = math.exp(sum(known) / len(known)) if known else 0.0
        state = "found" if text else "blank"
        return Answer(numbers, {"text": text}, {"text": Field("text", text, reply.text, state, score)})  # type: ignore[arg-type]
    value = parsed(reply.text)
    value = value if isinstance(value, dict) else parsed(completed(reply.text))
    fields: dict[str, Field] = {}
    shaped = _shaped(schema.wire, value, "", (schema, judged, fields))
    return Answer(numbers, shaped, fields, wrapped=is_wrapped(reply.text))


def unfenced(text: str) -> str:
    """A reply without the fence that models like to put around Markdown or code."""
    text = text.strip("\n")
    lines = text.split("\n")
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```" and text.count("```") == 2:
        return "\n".join(lines[1:-1])
    return text.rstrip()


def _shaped(wire: Mapping[str, Any], value: Any, path: str, known: tuple[Schema, Mapping[str, Field], Any]) -> Any:
    """The value in the schema's shape and types; what a cut reply lacks is null. Fields are added on the way."""
    if "properties" in wire:
        inner = value if isinstance(value, Mapping) else {}
        return {
            name: _shaped(part, inner.get(name), f"{path}.{name}" if path else name, known)
            for name, part in wire["properties"].items()
        }
    if "items" in wire:
        items = value if isinstance(value, list) else []
        return [_shaped(wire["items"], item, f"{path}[{index}]", known) for index, item in enumerate(items)]
    schema, judged, fields = known
    fields[path] = _typed_field(schema, judged.get(path) or Field(path, value, "", "missing", 0.0), value)
    return fields[path].value


def _typed_field(schema: Schema, field: Field, value: Any) -> Field:
    leaf = schema.leaf(field.path)
    if leaf is None:
        return replace(field, value=value)
    try:
        meant, doubt = typed(leaf, value)
    except UnreadableError as error:
        return replace(field, value=None, state="unreadable", checks=(*field.checks, str(error)), review=True)
    if doubt is not None:
        return replace(field, value=meant, checks=(*field.checks, doubt), review=True)
    return replace(field, value=meant)
