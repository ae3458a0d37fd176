"""The names that requests may use for the model: its own, and those of the adapters that are loaded at that moment."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.engine.adapters import Adapters
from tessera.errors import ModelNotFoundError


@dataclass(frozen=True)
class Names:
    """`own` are the model's names, at least one; `default` is what a request means that names nothing."""

    own: tuple[str, ...]
    adapters: Adapters | None = None  # None: another server decides
    default: str | None = None

    def adapter(self, name: str | None) -> str | None:
        """Return the name if an adapter has it, None for the model alone; raises ModelNotFoundError."""
        name = self.default if name is None else name
        if name is None or name in self.own:
            return None
        if self.adapters is not None and name in self.adapters:
            return name
        others = " or an adapter of GET /v1/models" if self.adapters is not None and any(self.adapters) else ""
        raise ModelNotFoundError(f"the model {name[:80]!r} is not served here; use {self.own[0]!r}{others}.")

    def stated(self, name: str | None) -> str:
        """Return the name that a reply states: the adapter's, or the model's first one."""
        name = self.default if name is None else name
        return self.own[0] if name is None or name in self.own else name
