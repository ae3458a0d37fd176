"""Moving from one model to another: both read the same documents, and what they say is compared value by value.

`compare` is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.migration.api import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tessera.migration' has no attribute {name!r}")
    from tessera.migration.api import compare

    return compare


def __dir__() -> list[str]:
    """List the public names, loaded or not, for completion."""
    return __all__
