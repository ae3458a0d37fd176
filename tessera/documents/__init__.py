"""Documents into data: pages, extraction, confidence, places, and jobs that go on after an interruption.

The public names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.documents.api import extract
    from tessera.documents.page import Box, Page, PageError, Word
    from tessera.documents.pages import read_pages
    from tessera.documents.record import Field, Record

__all__ = ["Box", "Field", "Page", "PageError", "Record", "Word", "extract", "read_pages"]

_HOMES = {
    "extract": "api", "read_pages": "pages", "Field": "record", "Record": "record", "Box": "page", "Page": "page",
    "PageError": "page", "Word": "page",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tessera.documents' has no attribute {name!r}")
    value = getattr(import_module(f"tessera.documents.{_HOMES[name]}"), name)
    globals()[name] = value  # `extract` is also a module's name, which an import would put here
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not, for completion."""
    return __all__
