"""A run that ends its own process with SIGKILL, at a step or while a file is being written."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tessera.finetune import settings, state
from tests.finetune.small import make_run


def run_until_killed(folder: Path, out: Path, when: str, options: dict[str, Any]) -> None:
    """To be called in a process of its own. `when` is a step, "state" or "pieces"."""
    made = make_run(folder, out, settings.Settings(**options))
    if when == "state":
        save_checkpoint = state.save_checkpoint

        def save_or_kill(path: Path, tensors: Any, step: int) -> None:
            if step >= 6:
                kill()
            save_checkpoint(path, tensors, step)

        state.save_checkpoint = save_or_kill
    elif when == "pieces":
        from torch.distributed.checkpoint import state_dict_saver  # slow to import

        save = state_dict_saver.save

        def save_and_kill(tensors: Any, **options: Any) -> None:
            save(tensors, **options)
            if int(tensors["step"]) == 6:
                kill()

        state_dict_saver.save = save_and_kill
    else:
        mark = made._mark

        def mark_or_kill(pack: Any) -> Any:
            if made.step == int(when):
                kill()
            return mark(pack)

        made._mark = mark_or_kill  # type: ignore[method-assign]
    made.go()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
