"""Tessera: Pixtral 12B as software that people can run, serve, shrink, teach and trust.

The public names are loaded on first use, so that `import tessera` and `tessera --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.chat import Completion, Delta, ToolCall, Tools, Usage
    from tessera.client import Client
    from tessera.llm import LLM
    from tessera.messages import Image, Message
    from tessera.sampling import Grammar, SamplingParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Client",
    "Completion",
    "Delta",
    "Grammar",
    "Image",
    "Message",
    "SamplingParams",
    "ToolCall",
    "Tools",
    "Usage",
]

_HOMES = dict.fromkeys(__all__, "tessera.chat") | {
    "LLM": "tessera.llm",
    "Client": "tessera.client",
    "Image": "tessera.messages",
    "Message": "tessera.messages",
    "Grammar": "tessera.sampling",
    "SamplingParams": "tessera.sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tessera' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not, for completion."""
    return [*__all__, "__version__"]
