"""The adapters that requests may name, and the slots in which those of running requests lie.

Loaded adapters stay in system memory, in the model's dtype. A request keeps its adapter until it ends: unloading or
replacing a name changes only what later requests get. At most `max_loras` adapters compute in one batch; a request
whose adapter finds no slot waits. It computes nothing. Terms and limits are vLLM's.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tessera.errors import ModelNotFoundError, UsageError, shown
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.files import read_adapter
from tessera.model.config import ModelConfig

if TYPE_CHECKING:
    from tessera.engine.config import EngineConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")


@dataclass(eq=False)
class LoadedAdapter:
    """An adapter under a name; `summary` says how much of the model it changes."""

    name: str
    path: Path
    content: LoraAdapter
    summary: str
    num_requests: int = 0  # begun under this name, also by adapters that this one replaced
    num_unfinished: int = 0


class Adapters:
    """The loaded adapters by name. Any thread may call it."""

    def __init__(self, model: ModelConfig, config: EngineConfig, dtype: torch.dtype) -> None:
        self._model, self._config, self._dtype = model, config, dtype
        self._loading = threading.Lock()  # one at a time: reading takes seconds
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self._left: list[LoadedAdapter] = []  # unloaded or replaced; some requests may still compute with them

    def __iter__(self) -> Iterator[LoadedAdapter]:
        """Iterate over the loaded adapters, oldest first."""
        with self._lock:
            return iter(tuple(self._loaded.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    def get(self, name: str | None) -> LoadedAdapter | None:
        """Return the adapter of a name, None without one; raises ModelNotFoundError if there is none."""
        if name is None:
            return None
        if (found := self._loaded.get(name)) is None:
            raise ModelNotFoundError(f"no adapter {name[:80]!r} is loaded; load it, or ask without one.")
        return found

    def load(
        self, name: str, path: str | Path, *, replaces: bool = False, taken: Collection[str] = ()
    ) -> LoadedAdapter:
        """Read and check an adapter, and give it a name that is not `taken`; raises UsageError and CheckpointError.

        With `replaces`, a loaded adapter of this name gives way; its running requests end with what they began with.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"the adapter's name {shown(name)} must have 1 to 100 letters, digits or ._:/@+- and begin with a "
                "letter or digit; choose another."
            )
        if name in taken:
            raise UsageError(f"{name!r} is the model's own name; choose another for the adapter.")
        with self._loading:
            self._check_room(name, replaces)
            loaded = self._read(name, Path(path).expanduser())
            with self._lock:
                if (before := self._loaded.get(name)) is not None:
                    self._left.append(before)
                    loaded.num_requests = before.num_requests
                self._loaded[name] = loaded
        return loaded

    def unload(self, name: str) -> None:
        """Forget a name; requests that have begun end as usual. Raises ModelNotFoundError."""
        with self._lock:
            self.get(name)
            self._left.append(self._loaded.pop(name))

    def _check_room(self, name: str, replaces: bool) -> None:
        config = self._config
        if not config.max_loras:
            raise UsageError("adapters per request are off; set max_loras to the number that may run in one batch.")
        with self._lock:
            if name in self._loaded and not replaces:
                raise UsageError(f"an adapter {name!r} is loaded already; unload it, or load in place of it.")
            self._left = [each for each in self._left if each.num_unfinished]
            others = len(self._loaded) - (name in self._loaded)
            if others + len(self._left) >= config.max_cpu_loras:
                ending = f", {len(self._left)} of them only until their requests end" if self._left else ""
                raise UsageError(
                    f"{others + len(self._left)} adapters are loaded{ending}, and the limit is max_cpu_loras="
                    f"{config.max_cpu_loras}; unload one, or raise it."
                )

    def _read(self, name: str, path: Path) -> LoadedAdapter:
        content = read_adapter(path, self._model)
        rank = max(module.rank for module in content.modules.values())
        if rank > self._config.max_lora_rank:
            raise UsageError(
                f"the adapter {name!r} has rank {rank} and the limit is max_lora_rank={self._config.max_lora_rank}; "
                "raise it."
            )
        digest, dtype = content.digest, self._dtype
        modules = {
            each: LowRank(module.a_RK.to(dtype), module.b_NR.to(dtype), module.scale)
            for each, module in content.modules.items()
        }
        held = replace(content, modules=modules)
        held.__dict__["digest"] = digest  # of the file's numbers, which rounding could make equal
        return LoadedAdapter(name, path, held, f"{content.counts(self._model)}, rank {rank}")


class SlotTable:
    """Which adapter lies in which slot, by content; unused ones stay until their slot is needed, oldest use first."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._slots: OrderedDict[str, int] = OrderedDict()  # by digest, least recently used first
        self._running: Counter[str] = Counter()  # requests that compute with it
        self._unfilled: dict[int, LoraAdapter] = {}

    def has_room(self, adapter: LoadedAdapter | None) -> bool:
        """Return True if a request with this adapter may start."""
        if adapter is None or adapter.content.digest in self._slots or self._free:
            return True
        return any(not self._running[digest] for digest in self._slots)

    def take(self, adapter: LoadedAdapter | None) -> int | None:
        """Return the slot for one more running request; the caller has checked `has_room`."""
        if adapter is None:
            return None
        digest = adapter.content.digest
        if digest not in self._slots:
            if not self._free:
                unused = next(each for each in self._slots if not self._running[each])
                self._free.append(self._slots.pop(unused))
            self._slots[digest] = self._free.pop()
            self._unfilled[self._slots[digest]] = adapter.content
        self._slots.move_to_end(digest)
        self._running[digest] += 1
        return self._slots[digest]

    def release(self, adapter: LoadedAdapter | None) -> None:
        """Record that a request with this adapter runs no more."""
        if adapter is not None:
            self._running[adapter.content.digest] -= 1

    def unfilled(self, slots: Collection[int | None]) -> list[tuple[int, LoraAdapter]]:
        """Return which of these slots do not hold their adapters yet."""
        return [(slot, adapter) for slot, adapter in self._unfilled.items() if slot in slots]

    def filled(self, slot: int) -> None:
        del self._unfilled[slot]
