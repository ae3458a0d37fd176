"""Lines in the log about a model that takes long to load, so that a start of minutes does not look like a hang."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tessera.weights.fill import Progress

LOG_S = 5.0  # between two lines; a model that is loaded sooner logs none

logger = logging.getLogger("tessera.server")


def logged_progress(clock: Callable[[], float] = time.monotonic) -> Progress:
    """Return what logs how far a model is loaded, or its vision side rounded. Example: "37 % done, at output"."""
    last = clock()

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= LOG_S:
            last = clock()
            logger.info("%d %% done, at %s", 100 * done // max(total, 1), name)

    return progress
