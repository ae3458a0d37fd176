"""What the machine can do at most: bytes read a second and bfloat16 operations a second, as measured now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MATRIX = 2048  # large enough to be bound by arithmetic, small enough to be quick
READ_NUMBERS = 2**26  # 256 MiB in float32: far beyond any cache


@dataclass(frozen=True)
class Limits:
    """Ceilings of one device, in units a second."""

    read_bytes_per_s: float
    bfloat16_flops: float


def measure_limits(device: str = "cpu") -> Limits:
    """The best of several sums over memory and of several square products of random numbers."""
    numbers = torch.ones(READ_NUMBERS, device=device)
    read_s = best_seconds(lambda: numbers.sum().item())
    left, right = (torch.randn(MATRIX, MATRIX, device=device).bfloat16() for _ in range(2))
    product_s = best_seconds(lambda: (left @ right)[0, 0].item())
    return Limits(numbers.nbytes / read_s, 2 * MATRIX**3 / product_s)


def best_seconds(work: Callable[[], object], rounds: int = 7) -> float:
    """The shortest of several runs after a warm-up; `work` must wait for its result."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
