"""The setting `lora_modules`: adapters with their names, in the forms that vLLM takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


@dataclass(frozen=True)
class LoraModule:
    """An adapter to load under a name; `base` is the model that it is said to be for."""

    name: str
    path: str
    base: str | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.path}"


def _lora_modules(value: Any) -> Any:
    """Parse adapters in vLLM's forms: name=path, or JSON with name, path and base_model_name; one or a list of them."""
    if isinstance(value, str):
        try:
            parts = json.loads(value) if value.lstrip()[:1] in ("[", "{") else value.split(",")
        except ValueError:
            return value
    else:
        parts = value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    found: list[Any] = []
    for part in parts:
        if isinstance(part, str) and (part.lstrip()[:1] in ("[", "{") or "," in part):
            more = _lora_modules(part)
            found += more if isinstance(more, tuple) else [more]
        elif isinstance(part, str) and part.strip():
            name, _, path = part.strip().partition("=")
            found.append(LoraModule(name, path))
        elif isinstance(part, Mapping) and {"name", "path"} <= set(part) <= {"name", "path", "base_model_name"}:
            found.append(LoraModule(part["name"], part["path"], part.get("base_model_name")))
        elif part != "":
            found.append(part)
    return tuple(found)


def _distinct(modules: tuple[LoraModule, ...]) -> tuple[LoraModule, ...]:
    if not all(each.name and each.path for each in modules) or len({each.name for each in modules}) < len(modules):
        raise ValueError
    return modules


LoraModules = Annotated[tuple[LoraModule, ...], BeforeValidator(_lora_modules), AfterValidator(_distinct)]
