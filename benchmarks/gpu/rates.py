"""Timing on a device, and the device's limits, the reference for everything else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.gpu.sizes import Sizes


@dataclass(frozen=True)
class Rates:
    """The device's limits, measured in this run."""

    copy_bytes_per_s: float  # read and written together
    matmul_flops: float  # bfloat16, random numbers


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int, repeats: int = 1) -> float:
    """Return the median time of a call over rounds, after a warm-up; calls are queued together, then awaited."""
    work()
    synchronize(device)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronize(device)
        found.append((time.perf_counter() - start) / repeats)
    return statistics.median(found)


def measure_rates(device: torch.device, sizes: Sizes) -> Rates:
    source = torch.randint(0, 255, (sizes.copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), device, 5, 4)
    left, right = (torch.randn(sizes.matrix, sizes.matrix, device=device).bfloat16() for _ in range(2))
    matmul_s = seconds_of(lambda: left @ right, device, 5, 4)
    return Rates(2 * sizes.copy_bytes / copy_s, 2 * sizes.matrix**3 / matmul_s)
