"""The start and the end of a command: libraries are imported, and left, without searching them for garbage.

Importing torch makes some 700,000 objects that all stay. Python's collector looks through them again and again while
they are made, and once more when the process ends: 0.6 of 3 s of processor time for a question to nano.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage within, and never look at what was made there; the collector is then as it was."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def leave_quickly() -> None:
    """Spare the last collection before the process ends: its memory goes back to the system anyway.

    Not with Triton: its bindings (nanobind) name on standard error whatever was not collected, in thirty lines.
    """
    if "triton" in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()
