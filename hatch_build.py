"""The installer's hook: compiles the C++ kernels where a compiler is, and installs without them where none is."""

from __future__ import annotations

import sys
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # This needs none of the package's dependencies, which are not installed yet.
        sys.path.insert(0, self.root)
        from tessera.kernels.build import BuildError, build

        try:
            built = build()
        except (BuildError, OSError) as error:
            self.app.display_warning(f"no kernel library, so plain PyTorch computes, more slowly: {error}")
            return
        # An editable install finds it where it was built; a wheel takes it along, though git ignores it.
        build_data["artifacts"].append(str(built.library.relative_to(self.root)))
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
