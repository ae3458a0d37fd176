"""The benchmarks, one small file each: rows to questions, and replies to points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tessera.errors import UsageError, shown
from tessera.evals.task import Task

MODULES = {
    "mmmu": "mmmu",
    "mathvista": "mathvista",
    "chartqa": "chartqa",
    "docvqa": "docvqa",
    "vqav2": "vqav2",
    "mm-mt-bench": "mm_mt_bench",
    "mmlu": "mmlu",
    "mmlu-pro": "mmlu_pro",
    "math": "math",
    "humaneval": "humaneval",
}


def task_named(name: str) -> Task:
    """Return a benchmark; raises UsageError that lists them."""
    if name not in MODULES:
        raise UsageError(
            f"the task {shown(name)} is unknown; use one of {', '.join(MODULES)}, or a .jsonl or .csv file."
        )
    task: Task = import_module(f"tessera.evals.tasks.{MODULES[name]}").TASK
    return task


def task_of(facts: Mapping[str, Any]) -> Task:
    """Return the task of a run, as its `run.json` describes it."""
    if facts["options"]:
        from tessera.evals.tasks.own import own_task

        return own_task(**{**facts["options"], "path": Path(facts["options"]["path"])})
    return task_named(facts["task"])
